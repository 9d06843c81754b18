import Foundation
import Gemma4
import Testing

/// The example's model, without its views. `ChatModel.swift` here is a link to the example's.
@MainActor
struct ChatModelTests {
  private func opened() async throws -> ChatModel {
    let cases = try #require(ProcessInfo.processInfo.environment["GEMMA4_CASES"], "tools/test_swift sets GEMMA4_CASES")
    let model = ChatModel(options: .init(compile: false))
    await model.open("\(cases)/tiny.bundle")
    #expect(model.failure == nil)
    #expect(model.state == .ready)
    return model
  }

  @Test func answersAreShownAsTheyCome() async throws {
    let model = try await opened()
    #expect(!model.canSend)
    model.message = "The wall was high, and"
    #expect(model.canSend)
    model.send()
    #expect(model.state == .answering)
    #expect(model.message == "")
    await model.answered()
    #expect(model.state == .ready)
    #expect(model.lines.map(\.role) == [.user, .model])
    #expect(model.lines[0].runs == [.init(text: "The wall was high, and")])
    #expect(model.lines[1].runs.map(\.text).joined().hasPrefix("she had been in the room"))
    #expect(model.lines[1].runs.contains { $0.isDraft })
    #expect(zip(model.lines[1].runs, model.lines[1].runs.dropFirst()).allSatisfy { $0.isDraft != $1.isDraft })
    #expect(model.lines[1].note.hasSuffix("% drafted"))
    model.reset()
    #expect(model.lines == [])
  }

  @Test func anAnswerCanBeStopped() async throws {
    let model = try await opened()
    model.message = String(repeating: "The wall was high, and she had been in the room. ", count: 100)
    model.send()
    try await Task.sleep(for: .milliseconds(50))
    model.stop()
    await model.answered()
    #expect(model.state == .ready)
    #expect(model.failure == nil)
    model.message = "Who came back?"
    model.send()
    await model.answered()
    #expect(model.lines.count == 4)
    #expect(model.lines[3].runs != [])
  }

  @Test func failuresAreSentences() async throws {
    let model = ChatModel()
    await model.open("/nowhere")
    #expect(model.failure == "cannot read /nowhere/manifest.json")
    #expect(model.state == .closed)
    await model.open("http://127.0.0.1:1/X.bundle")
    #expect(model.failure?.hasPrefix("cannot download http://127.0.0.1:1/X.bundle: ") == true)
    #expect(model.state == .closed)
    let open = try await opened()
    open.thinking = true
    open.message = "Hi"
    open.send()
    await open.answered()
    #expect(open.failure == "the model's chat format knows no thoughts")
    #expect(open.state == .ready)
  }
}
