// Written by Apple's documentation of macOS 27 and type-checked against a stand-in; it was not compiled on Apple's systems.
#if os(Linux) || canImport(FoundationModels, _version: 2)
  import Foundation
  import FoundationModels
  import Gemma4

  /// Answers the requests of one session.
  @available(macOS 27.0, iOS 27.0, visionOS 27.0, *)
  public struct Gemma4Executor: LanguageModelExecutor {
    public typealias Model = Gemma4LanguageModel

    /// Which model it is.
    public struct Configuration: Hashable, Sendable {
      let model: ObjectIdentifier
    }

    private let session = SessionKeys()

    public init(configuration: Configuration) throws {}

    /// Reads the weights, while the session goes on.
    public func prewarm(model: Gemma4LanguageModel, transcript: Transcript) {
      Task { try? await model.gemma.prewarm() }  // what is wrong with the bundle is told by the first request
    }

    /// Streams the answer to the transcript's last prompt.
    public func respond(
      to request: LanguageModelExecutorGenerationRequest, model: Gemma4LanguageModel,
      streamingInto channel: LanguageModelExecutorGenerationChannel
    ) async throws {
      let chat = try TranscriptChat(request.transcript)
      let options = model.options(for: request)
      let pieces = await session.conversation(with: model.gemma, chat).stream(chat.prompt, options: options)
      let entry = UUID().uuidString
      await channel.send(.response(entryID: entry, action: .updateMetadata(["modelID": model.gemma.manifest.name])))
      do {
        try await Self.send(pieces, entry, to: channel)
      } catch let error as Gemma4Error {
        throw try model.known(error, chat)
      }
    }

    private static func send(
      _ pieces: AsyncThrowingStream<Piece, any Error>, _ entry: String, to channel: LanguageModelExecutorGenerationChannel
    ) async throws {
      let (thoughts, response) = (UUID().uuidString, entry)
      var thought = 0
      for try await piece in pieces {
        let count = piece.tokens.count
        if piece.channel == .thought { thought += count }
        if !piece.text.isEmpty {
          await channel.send(
            piece.channel == .thought
              ? .reasoning(entryID: thoughts, action: .appendText(piece.text, tokenCount: count))
              : .response(entryID: response, action: .appendText(piece.text, tokenCount: count)))
        }
        if let statistics = piece.statistics {
          await channel.send(.response(entryID: response, action: usage(statistics, thought)))
        }
      }
      try Task.checkCancellation()
    }

    private static func usage(
      _ statistics: Statistics, _ thought: Int
    ) -> LanguageModelExecutorGenerationChannel.Response.Action {
      .updateUsage(
        input: .init(totalTokenCount: statistics.promptTokens, cachedTokenCount: statistics.keptTokens),
        output: .init(totalTokenCount: statistics.tokens, reasoningTokenCount: thought))
    }
  }

  @available(macOS 27.0, iOS 27.0, visionOS 27.0, *)
  extension Gemma4LanguageModel {
    /// What a request asks for. What it leaves open is as the model's makers ask for it.
    func options(for request: LanguageModelExecutorGenerationRequest) -> TextOptions {
      let asked = request.generationOptions
      var options = TextOptions(drafts: drafts, thinking: request.contextOptions.reasoningLevel != nil)
      options.maxTokens = asked.maximumResponseTokens ?? gemma.manifest.context
      options.temperature = asked.temperature.map { Float($0) }
      let kind = asked.samplingMode?.kind
      if case .greedy = kind { options.temperature = 0 }
      if case .randomTopK(let count, let seed) = kind {
        (options.topK, options.topP, options.minP) = (min(count, gemma.manifest.mostTopK), 1, 0)
        options.seed = seed
      }
      if case .randomProbabilityThreshold(let threshold, let seed) = kind {
        (options.topK, options.topP, options.minP) = (0, Float(threshold), 0)
        options.seed = seed
      }
      return options
    }

    /// An error that sessions know how to go on from, where it is one.
    func known(_ error: Gemma4Error, _ chat: TranscriptChat) throws -> any Error {
      let count = try gemma.ids(chat.messages).count
      guard count > gemma.manifest.context else { return error }
      return LanguageModelError.contextSizeExceeded(
        .init(contextSize: gemma.manifest.context, tokenCount: count, debugDescription: error.description))
    }
  }

  /// A session's conversation, for as long as its transcript goes on from it.
  private actor SessionKeys {
    private var conversation: Conversation?
    private var instructions: String?

    /// The conversation that a transcript goes on from, with its keys; a new one where there is none.
    func conversation(with gemma: Gemma4, _ chat: TranscriptChat) -> Conversation {
      if let conversation, instructions == chat.instructions, conversation.messages == chat.history { return conversation }
      let new = gemma.conversation(system: chat.instructions, messages: chat.history)
      (conversation, instructions) = (new, chat.instructions)
      return new
    }
  }
#endif
