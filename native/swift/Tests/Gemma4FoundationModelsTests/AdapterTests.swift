import Foundation
import FoundationModels
import Gemma4
import Testing

@testable import Gemma4FoundationModels

/// The adapter, asked as a session asks it, with a stand-in of Apple's framework.
struct AdapterTests {
  typealias Channel = LanguageModelExecutorGenerationChannel

  private static func gemma() throws -> Gemma4 {
    let cases = try #require(ProcessInfo.processInfo.environment["GEMMA4_CASES"], "tools/test_swift sets GEMMA4_CASES")
    return try Gemma4(bundle: URL(fileURLWithPath: cases).appendingPathComponent("tiny.bundle"), options: .init(compile: false))
  }

  private static func entry(_ text: String, _ kind: ([Transcript.Segment]) -> Transcript.Entry) -> Transcript.Entry {
    kind([.text(.init(content: text))])
  }

  private static func prompt(_ text: String) -> Transcript.Entry { entry(text) { .prompt(.init(segments: $0)) } }
  private static func response(_ text: String) -> Transcript.Entry { entry(text) { .response(.init(segments: $0)) } }
  private static func instructions(_ text: String) -> Transcript.Entry { entry(text) { .instructions(.init(segments: $0)) } }

  /// What a request's channel was sent.
  private struct Answer {
    var text = ""
    var tokens = 0
    var metadata: [String] = []
    var input: Channel.Usage.Input?
    var output: Channel.Usage.Output?
  }

  private static func ask(
    _ executor: Gemma4Executor, _ model: Gemma4LanguageModel, _ entries: [Transcript.Entry],
    _ options: FoundationModels.GenerationOptions = .init(maximumResponseTokens: 20)
  ) async throws -> Answer {
    let channel = Channel()
    let request = LanguageModelExecutorGenerationRequest(transcript: Transcript(entries: entries), generationOptions: options)
    try await executor.respond(to: request, model: model, streamingInto: channel)
    channel.close()
    var answer = Answer()
    for await event in channel.events {
      switch event.given {
      case .text(let text, let count): (answer.text, answer.tokens) = (answer.text + text, answer.tokens + count)
      case .metadata(let names): answer.metadata = names
      case .usage(let input, let output): (answer.input, answer.output) = (input, output)
      }
    }
    return answer
  }

  @Test func sessionsGetThePackagesAnswersAndKeepTheirKeys() async throws {
    let gemma = try Self.gemma()
    let model = Gemma4LanguageModel(gemma)
    let executor = try Gemma4Executor(configuration: model.executorConfiguration)
    let conversation = gemma.conversation(system: "Be brief.")
    var entries = [Self.instructions("Be brief.")]
    var kept: [Int] = []
    for question in ["The wall was high, and", "Who came back?", "Where is the river?"] {
      var expected = ""
      for try await piece in conversation.stream(question, options: .init(maxTokens: 20)) { expected += piece.text }
      entries.append(Self.prompt(question))
      let answer = try await Self.ask(executor, model, entries)
      #expect(answer.text == expected)
      #expect(answer.metadata == ["modelID"])
      let input = try #require(answer.input)
      let output = try #require(answer.output)
      #expect((0...1).contains(output.totalTokenCount - answer.tokens))  // a stop token says nothing
      #expect(output.reasoningTokenCount == 0)
      kept.append(input.cachedTokenCount)
      entries.append(Self.response(answer.text))
    }
    #expect(kept[0] == 0)
    #expect(kept[1] > 0 && kept[2] > kept[1])
  }

  @Test func anotherTranscriptIsAnotherConversation() async throws {
    let model = Gemma4LanguageModel(try Self.gemma())
    let executor = try Gemma4Executor(configuration: model.executorConfiguration)
    _ = try await Self.ask(executor, model, [Self.prompt("Who came back?")])
    let trimmed = try await Self.ask(executor, model, [Self.prompt("Hi"), Self.response("Hello"), Self.prompt("Who came back?")])
    let alone = try Gemma4Executor(configuration: model.executorConfiguration)
    let same = try await Self.ask(alone, model, [Self.prompt("Hi"), Self.response("Hello"), Self.prompt("Who came back?")])
    #expect(trimmed.text == same.text)
    #expect(trimmed.input?.cachedTokenCount == 0)
  }

  @Test func modelsAreToldApartByWhichTheyAre() throws {
    let gemma = try Self.gemma()
    #expect(Gemma4LanguageModel(gemma).executorConfiguration == Gemma4LanguageModel(gemma).executorConfiguration)
    #expect(try Gemma4LanguageModel(gemma).executorConfiguration != Gemma4LanguageModel(Self.gemma()).executorConfiguration)
    #expect(!Gemma4LanguageModel(gemma).capabilities.contains(.toolCalling))
    let thinks = gemma.manifest.text.chat?.thinking != nil
    #expect(Gemma4LanguageModel(gemma).capabilities.contains(.reasoning) == thinks)
  }

  @Test func optionsAreTakenOver() throws {
    let model = Gemma4LanguageModel(try Self.gemma(), drafts: .fixed(3))
    func options(
      _ given: FoundationModels.GenerationOptions, _ level: ContextOptions.ReasoningLevel? = nil
    ) -> TextOptions {
      model.options(for: .init(
        transcript: .init(), generationOptions: given, contextOptions: .init(reasoningLevel: level)))
    }
    let context = model.gemma.manifest.context
    #expect(options(.init()) == TextOptions(maxTokens: context, drafts: .fixed(3)))
    #expect(options(.init(), .light).thinking)
    #expect(options(.init(maximumResponseTokens: 5)).maxTokens == 5)
    #expect(options(.init(samplingMode: .greedy, temperature: 1)).temperature == 0)
    let top = options(.init(samplingMode: .random(top: 9, seed: 4), temperature: 0.5))
    #expect(top == TextOptions(maxTokens: context, drafts: .fixed(3), temperature: 0.5, topK: 9, topP: 1, minP: 0, seed: 4))
    #expect(options(.init(samplingMode: .random(top: 1_000_000))).topK == model.gemma.manifest.mostTopK)
    let nucleus = options(.init(samplingMode: .random(probabilityThreshold: 0.25, seed: 4)))
    #expect(nucleus == TextOptions(maxTokens: context, drafts: .fixed(3), topK: 0, topP: 0.25, minP: 0, seed: 4))
  }

  @Test func transcriptsAreChats() throws {
    let structure = Transcript.Entry.prompt(.init(segments: [
      .text(.init(content: "As JSON:")), .structure(.init(content: .init(json: "{}"))),
    ]))
    let chat = try TranscriptChat(Transcript(entries: [
      Self.instructions("Be brief."), Self.prompt("Hi"), .reasoning(.init()), Self.response("Hello"), structure,
    ]))
    #expect(chat.instructions == "Be brief.")
    #expect(chat.history == [Message(.user, "Hi"), Message(.model, "Hello")])
    #expect(chat.prompt == "As JSON:\n{}")
    #expect(chat.messages.map(\.role) == [.system, .user, .model, .user])
    let picture = Transcript.Entry.prompt(.init(segments: [.attachment(.init())]))
    for entries in [[picture], [.toolOutput(.init()), Self.prompt("Hi")], [], [Self.prompt("Hi"), Self.response("Hello")]] {
      #expect(throws: LanguageModelError.self) { try TranscriptChat(Transcript(entries: entries)) }
    }
  }

  @Test func aTranscriptThatIsTooLongIsSaidToBe() async throws {
    let model = Gemma4LanguageModel(try Self.gemma())
    let executor = try Gemma4Executor(configuration: model.executorConfiguration)
    let long = Self.prompt(String(repeating: "wall ", count: model.gemma.manifest.context))
    do {
      _ = try await Self.ask(executor, model, [long])
      Issue.record("it was answered")
    } catch LanguageModelError.contextSizeExceeded(let said) {
      #expect(said.contextSize == model.gemma.manifest.context)
      #expect(said.tokenCount > said.contextSize)
    }
  }

  @Test func cancellingEndsAnAnswer() async throws {
    let model = Gemma4LanguageModel(try Self.gemma())
    let executor = try Gemma4Executor(configuration: model.executorConfiguration)
    let channel = Channel()
    let request = LanguageModelExecutorGenerationRequest(
      transcript: Transcript(entries: [Self.prompt("The wall was high, and")]))
    let task = Task { try await executor.respond(to: request, model: model, streamingInto: channel) }
    for await event in channel.events {
      guard case .text = event.given else { continue }
      task.cancel()
      break
    }
    await #expect(throws: CancellationError.self) { try await task.value }
  }
}
