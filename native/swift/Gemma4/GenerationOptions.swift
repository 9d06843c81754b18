/// How a text is made. What is nil is as the model's makers ask for it in the manifest.
public struct GenerationOptions: Sendable, Equatable {
  /// How many drafts a round has.
  public enum Drafts: Sendable, Equatable {
    /// As many as have paid so far.
    case learned
    /// Always so many; 0 decodes plainly.
    case fixed(Int)
    /// Of one round after the other, again and again.
    case pattern([Int])
  }

  /// The most tokens of the text. It ends with the model's context, too.
  public var maxTokens: Int
  public var drafts: Drafts
  /// 0 takes the likeliest tokens; the others do not matter then.
  public var temperature: Float?
  /// Of how many of the likeliest tokens one is drawn; 0 is all of them.
  public var topK: Int?
  /// Of the likeliest tokens that together reach this; 1 is all of them.
  public var topP: Float?
  /// Of the tokens that are this fraction as likely as the likeliest.
  public var minP: Float?
  /// 0 drafts the assistant's likeliest tokens: the text of a seed does not depend on drafts then. Above, drafts are
  /// drawn.
  public var draftTemperature: Float
  /// The same seed gives the same text; nil takes another one each time.
  public var seed: UInt64?
  /// Lets the model think before it answers.
  public var thinking: Bool

  public init(
    maxTokens: Int = 1024, drafts: Drafts = .learned, temperature: Float? = nil, topK: Int? = nil, topP: Float? = nil,
    minP: Float? = nil, draftTemperature: Float = 0, seed: UInt64? = nil, thinking: Bool = false
  ) {
    self.maxTokens = maxTokens
    self.drafts = drafts
    self.temperature = temperature
    self.topK = topK
    self.topP = topP
    self.minP = minP
    self.draftTemperature = draftTemperature
    self.seed = seed
    self.thinking = thinking
  }
}

extension GenerationOptions {
  /// What the engine is asked for, of a model with this manifest.
  ///
  /// - Throws: ``Gemma4Error`` if a number is out of bounds.
  func request(_ manifest: Manifest) throws -> EngineRequest {
    let asked = manifest.text.sampling
    var request = EngineRequest(maxTokens: try Self.whole(maxTokens, "maxTokens", 1), drafts: try pattern(manifest))
    request.temperature = try Self.within(temperature ?? asked.temperature ?? 0, "temperature", 0...10_000)
    guard request.temperature > 0 else {
      guard draftTemperature == 0 else {
        throw Gemma4Error("draftTemperature needs a temperature above 0: greedy decoding drafts greedily")
      }
      return request
    }
    request.topP = try Self.within(topP ?? asked.topP ?? 1, "topP", 1e-6...1)
    request.minP = try Self.within(minP ?? asked.minP ?? 0, "minP", 0...1)
    request.topK = try Self.whole(topK ?? asked.topK ?? 0, "topK", 0)
    if request.topK == 0, request.topP < 1 { request.topK = Int32(manifest.mostTopK) }
    guard request.topK <= manifest.mostTopK else {
      throw Gemma4Error("topK is \(request.topK), and the bundle draws from at most \(manifest.mostTopK)")
    }
    request.draftTemperature = try Self.within(draftTemperature, "draftTemperature", 0...10_000)
    request.seed = seed ?? UInt64.random(in: .min ... .max)
    return request
  }

  /// Drafts of one round after the other; none are learned ones.
  private func pattern(_ manifest: Manifest) throws -> [Int32] {
    let numbers: [Int]
    switch drafts {
    case .learned: return []
    case .fixed(let number): numbers = [number]
    case .pattern(let given): numbers = given
    }
    guard !numbers.isEmpty else { throw Gemma4Error("the pattern of drafts is empty") }
    if let wrong = numbers.first(where: { !(0...manifest.drafts).contains($0) }) {
      throw Gemma4Error("a round has \(wrong) drafts, and the bundle has rounds of 0 to \(manifest.drafts)")
    }
    return numbers.map(Int32.init)
  }

  private static func whole(_ value: Int, _ name: String, _ least: Int) throws -> Int32 {
    guard value >= least else { throw Gemma4Error("\(name) is \(value), expected at least \(least)") }
    return Int32(clamping: value)
  }

  private static func within(_ value: Float, _ name: String, _ range: ClosedRange<Float>) throws -> Float {
    guard range.contains(value) else {
      throw Gemma4Error("\(name) is \(value), expected \(range.lowerBound) to \(range.upperBound)")
    }
    return value
  }
}
