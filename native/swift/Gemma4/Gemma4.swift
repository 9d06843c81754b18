import CGemma4
import Foundation

/// Gemma 4 with its assistant, of a bundle that `export` has written.
///
/// Making one reads the manifest and the tokenizer; weights are read when they are first needed, and go with the last
/// reference. Any number of texts may be made at the same time: their rounds take turns.
public final class Gemma4: Sendable {
  /// What a model may use.
  public struct Options: Sendable, Equatable {
    /// Whether rounds are compiled; nil: wherever nothing is missing for it (MLX on a CPU needs g++).
    public var compile: Bool?
    /// Bytes of freed memory that MLX keeps for what comes, in the whole process; 0 is MLX's own limit.
    public var cacheLimit: Int
    /// Bytes that MLX tries to stay within, in the whole process; 0 is MLX's own limit.
    public var memoryLimit: Int
    /// Weights and keys leave memory when no text was made for so long; nil keeps them.
    public var unloadWhenIdle: Duration?

    public init(
      compile: Bool? = nil, cacheLimit: Int = 0, memoryLimit: Int = 0, unloadWhenIdle: Duration? = nil
    ) {
      self.compile = compile
      self.cacheLimit = cacheLimit
      self.memoryLimit = memoryLimit
      self.unloadWhenIdle = unloadWhenIdle
    }
  }

  /// What MLX has in use, in bytes, in the whole process.
  public struct Memory: Sendable, Equatable {
    public let active: Int
    /// Freed, and kept for what comes.
    public let cache: Int
    /// The most that was active.
    public let peak: Int
  }

  /// What the bundle says of its model.
  public let manifest: Manifest
  public let tokenizer: Tokenizer
  let residence: Residence
  private let format: Result<ChatFormat, any Error>

  /// - Throws: ``Gemma4Error`` if the folder is no bundle, or an option is out of bounds.
  public init(bundle: URL, options: Options = .init()) throws {
    guard options.cacheLimit >= 0, options.memoryLimit >= 0 else {
      throw Gemma4Error("a limit of memory is below 0")
    }
    let manifest = try Manifest(bundle: bundle)
    let tokenizer = try Tokenizer(contentsOf: bundle.appendingPathComponent("tokenizer.json"))
    self.manifest = manifest
    self.tokenizer = tokenizer
    format = Result { try ChatFormat(manifest, tokenizer) }
    residence = Residence(bundle: bundle, options: options)
  }

  /// Reads the weights, and runs a few rounds, so that the first token comes as soon as later ones do.
  ///
  /// - Throws: ``Gemma4Error`` if the bundle is not whole.
  public func prewarm() async throws {
    try await residence.prewarm(manifest)
  }

  /// Lets weights, and the keys of conversations, go from memory. Texts that are being made are finished before.
  public func unload() async {
    await residence.unload()
  }

  public var memory: Memory {
    let used = gemma4_memory_in_use()
    return Memory(active: used.active, cache: used.cache, peak: used.peak)
  }

  /// The model's answer to messages.
  ///
  /// A piece is made when it is asked for, while the device is at the next one already. Cancelling the task, or leaving
  /// the loop, ends the text: what is under way then, a round or a piece of the prompt, is the last. Its piece says that
  /// the text was cancelled; a task that is cancelled between two pieces gets none more.
  ///
  /// - Returns: pieces, of which the last says why the text ends. It throws ``Gemma4Error`` if the messages, an option
  ///   or the bundle will not do.
  public func stream(
    _ messages: [Message], options: GenerationOptions = .init()
  ) -> AsyncThrowingStream<Piece, any Error> {
    stream(options) { try self.ids(messages, thinking: options.thinking) }
  }

  /// A text that continues these ids, as they are; see ``stream(_:options:)``.
  public func stream(ids: [Int32], options: GenerationOptions = .init()) -> AsyncThrowingStream<Piece, any Error> {
    stream(options) { ids }
  }

  /// A conversation, whose keys are kept from turn to turn.
  ///
  /// - Parameters:
  ///   - system: what the model is told before the first message.
  ///   - messages: what was said before, such as in an earlier run of the app.
  public func conversation(system: String? = nil, messages: [Message] = []) -> Conversation {
    Conversation(self, system: system, messages: messages)
  }

  /// The ids of messages in the model's chat format, up to where its answer begins.
  ///
  /// - Throws: ``Gemma4Error`` if the messages are in no order that the format has, or the model has none.
  public func ids(_ messages: [Message], thinking: Bool = false) throws -> [Int32] {
    try format.get().ids(messages, thinking: thinking)
  }

  private func stream(
    _ options: GenerationOptions, _ prompt: @escaping @Sendable () throws -> [Int32]
  ) -> AsyncThrowingStream<Piece, any Error> {
    Generation(self, keys: Keys(), options: options, turn: nil, prompt: prompt).stream
  }
}
