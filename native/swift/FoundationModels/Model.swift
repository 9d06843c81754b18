// A stand-in for Apple's framework of this name, of macOS 27: what the adapter uses of it, declared as Apple's documentation
// declares it, so that the adapter is type-checked and tested where there is no such framework. It is built on Linux only,
// and generates nothing itself.
import Foundation

/// A model that sessions can have.
public protocol LanguageModel: Sendable {
  associatedtype Executor: LanguageModelExecutor where Executor.Model == Self

  var capabilities: LanguageModelCapabilities { get }
  var executorConfiguration: Executor.Configuration { get }
}

/// What answers the requests of sessions. One that has an equal configuration is used again within a session.
public protocol LanguageModelExecutor: Sendable {
  associatedtype Configuration: Hashable, Sendable
  associatedtype Model: LanguageModel

  init(configuration: Configuration) throws
  func prewarm(model: Model, transcript: Transcript)
  func respond(
    to request: LanguageModelExecutorGenerationRequest, model: Model,
    streamingInto channel: LanguageModelExecutorGenerationChannel
  ) async throws
}

extension LanguageModelExecutor {
  public func prewarm(model: Model, transcript: Transcript) {}
}

/// What a model can do. Requests for what it cannot do are refused before its executor sees them.
public struct LanguageModelCapabilities: Sendable {
  public struct Capability: Sendable, Hashable {
    let name: String
    public static let guidedGeneration = Capability(name: "guided generation")
    public static let reasoning = Capability(name: "reasoning")
    public static let toolCalling = Capability(name: "tool calling")
    public static let vision = Capability(name: "vision")
  }

  private let capabilities: Set<Capability>

  public init(_ capabilities: [Capability]) { self.capabilities = Set(capabilities) }
  public func contains(_ capability: Capability) -> Bool { capabilities.contains(capability) }
}

/// How a request's tokens are drawn.
public struct GenerationOptions: Sendable {
  public struct SamplingMode: Sendable {
    public enum Kind: Sendable {
      case greedy
      case randomTopK(Int, seed: UInt64?)
      case randomProbabilityThreshold(Double, seed: UInt64?)
    }

    public let kind: Kind
    public static let greedy = SamplingMode(kind: .greedy)
    public static func random(top k: Int, seed: UInt64? = nil) -> SamplingMode {
      SamplingMode(kind: .randomTopK(k, seed: seed))
    }
    public static func random(probabilityThreshold: Double, seed: UInt64? = nil) -> SamplingMode {
      SamplingMode(kind: .randomProbabilityThreshold(probabilityThreshold, seed: seed))
    }
  }

  public var samplingMode: SamplingMode?
  public var temperature: Double?
  public var maximumResponseTokens: Int?

  public init(samplingMode: SamplingMode? = nil, temperature: Double? = nil, maximumResponseTokens: Int? = nil) {
    self.samplingMode = samplingMode
    self.temperature = temperature
    self.maximumResponseTokens = maximumResponseTokens
  }
}

/// How a request's model is prompted.
public struct ContextOptions: Sendable {
  public enum ReasoningLevel: Sendable, Equatable {
    case light, moderate, deep
    case custom(String)
  }

  public var reasoningLevel: ReasoningLevel?

  public init(reasoningLevel: ReasoningLevel? = nil) { self.reasoningLevel = reasoningLevel }
}

/// What a session asks a model for.
public struct LanguageModelExecutorGenerationRequest: Sendable {
  public var id: UUID
  public var transcript: Transcript
  public var generationOptions: GenerationOptions
  public var contextOptions: ContextOptions

  public init(
    id: UUID = UUID(), transcript: Transcript, generationOptions: GenerationOptions = .init(),
    contextOptions: ContextOptions = .init()
  ) {
    self.id = id
    self.transcript = transcript
    self.generationOptions = generationOptions
    self.contextOptions = contextOptions
  }
}

/// What goes wrong with any model.
public enum LanguageModelError: Error {
  public struct ContextSizeExceeded: Sendable {
    public var contextSize: Int
    public var tokenCount: Int
    public var debugDescription: String

    public init(contextSize: Int, tokenCount: Int, debugDescription: String) {
      self.contextSize = contextSize
      self.tokenCount = tokenCount
      self.debugDescription = debugDescription
    }
  }

  public struct UnsupportedTranscriptContent: Sendable {
    public var unsupportedContent: [Transcript.Entry]
    public var debugDescription: String

    public init(unsupportedContent: [Transcript.Entry], debugDescription: String) {
      self.unsupportedContent = unsupportedContent
      self.debugDescription = debugDescription
    }
  }

  case contextSizeExceeded(ContextSizeExceeded)
  case unsupportedTranscriptContent(UnsupportedTranscriptContent)
}
