import Foundation
import Testing

@testable import Gemma4

/// Turns go on where the ones before have ended.
struct ConversationTests {
  static let options = GenerationOptions(maxTokens: 40, drafts: .fixed(3))

  @Test func isThePackages() async throws {
    let expected: Cases.Conversation = try Cases.read("conversation.json")
    let conversation = try Cases.model().conversation(system: expected.system)
    var before = 0
    for (question, answer) in zip(expected.questions, expected.answers) {
      let pieces = try await all(conversation.stream(question, options: Self.options))
      #expect(pieces.text == answer)
      let said = try #require(pieces.last?.statistics)
      #expect(said.keptTokens == before)
      before = said.promptTokens + said.tokens - 1
    }
    #expect(conversation.messages.map(\.content) == zip(expected.questions, expected.answers).flatMap { [$0, $1] })
    #expect(conversation.messages.map(\.role) == [.user, .model, .user, .model, .user, .model])
  }

  /// Also where the text's own encoding has other ids.
  @Test func answersStayAsTheyWereWritten() throws {
    let gemma = try Cases.model()
    let messages = [
      Message(.system, "Be brief."), Message(.user, "Hi"), Message(.model, "so it is"), Message(.user, "Why"),
    ]
    let whole = try gemma.ids(messages)
    let answer = gemma.tokenizer.encode("so it is")
    let letters = "so it is".flatMap { gemma.tokenizer.encode(String($0)) }
    var empty = messages
    empty[2].content = ""
    #expect(try gemma.ids(empty, written: [nil, nil, answer, nil], thinking: false) == whole)
    let start = try #require(whole.indices.first { whole[$0...].starts(with: answer) })
    let expected = Array(whole[..<start]) + letters + Array(whole[(start + answer.count)...])
    #expect(letters != answer)
    #expect(try gemma.ids(empty, written: [nil, nil, letters, nil], thinking: false) == expected)
  }

  /// What was said of an answer that was left stays, and is continued.
  @Test func aTurnThatWasLeft() async throws {
    let gemma = try Cases.model()
    let conversation = gemma.conversation()
    var said = ""
    for try await piece in conversation.stream("The wall was high, and", options: Self.options) {
      said += piece.text
      if said.count > 3 { break }
    }
    #expect(conversation.messages == [Message(.user, "The wall was high, and"), Message(.model, said)])
    let later = try await all(conversation.stream("Who came back?", options: Self.options))
    let statistics = try #require(later.last?.statistics)
    #expect(statistics.keptTokens > 0)
    #expect(conversation.messages.count == 4)
  }

  @Test func aNewQuestionEndsTheAnswerBefore() async throws {
    let gemma = try Cases.model()
    let conversation = gemma.conversation()
    let first = conversation.stream("The wall was high, and", options: Self.options)
    var iterator = first.makeAsyncIterator()
    _ = try await iterator.next()
    let second = try await all(conversation.stream("Who came back?", options: Self.options))
    #expect(second.last?.finish != .cancelled)
    let left = try await iterator.next()
    #expect(left?.finish == .cancelled)
    #expect(try await iterator.next() == nil)
    #expect(conversation.messages.map(\.role) == [.user, .user, .model])
  }

  @Test func resetForgets() async throws {
    let gemma = try Cases.model()
    let conversation = gemma.conversation(system: "Be brief.")
    let first = try await all(conversation.stream("Who came back?", options: Self.options))
    conversation.reset()
    #expect(conversation.messages.isEmpty)
    let second = try await all(conversation.stream("Who came back?", options: Self.options))
    #expect(first.ids == second.ids)
  }

  @Test func goesOnWithWhatWasSaid() async throws {
    let gemma = try Cases.model()
    let expected: Cases.Conversation = try Cases.read("conversation.json")
    let said = [Message(.user, expected.questions[0]), Message(.model, expected.answers[0])]
    let conversation = gemma.conversation(system: expected.system, messages: said)
    let pieces = try await all(conversation.stream(expected.questions[1], options: Self.options))
    #expect(pieces.text == expected.answers[1])
  }

  @Test func aQuestionThatFailsIsNotKept() async throws {
    let conversation = try Cases.model().conversation()
    await #expect(throws: Gemma4Error.self) {
      try await all(conversation.stream(String(repeating: "long ", count: 5000), options: Self.options))
    }
    #expect(conversation.messages.isEmpty)
  }
}
