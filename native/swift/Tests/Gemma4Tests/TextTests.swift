import Foundation
import Testing

@testable import Gemma4

/// Texts are the package's.
struct TextTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let way: Cases.Way
    let drafts: GenerationOptions.Drafts
    var testDescription: String { "\(way.rawValue), \(drafts)" }
  }

  static let mixed = GenerationOptions.Drafts.pattern([0, 3, 8, 1, 5, 2, 2, 7])
  static let cases =
    [Cases.Way.likeliest, .drawn].flatMap { way in
      [.fixed(0), .fixed(3), mixed, .learned].map { Case(way: way, drafts: $0) }
    } + [Case(way: .draftsToo, drafts: .fixed(3))]

  @Test(arguments: cases)
  func isThePackages(_ each: Case) async throws {
    let texts = try Cases.texts
    let expected = try texts[each.way]
    let options = each.way.options(each.drafts, tokens: expected.tokens.count)
    let pieces = try await all(Cases.model().stream(ids: texts.prompt, options: options))
    #expect(pieces.ids == expected.tokens)
    #expect(pieces.text == expected.text)
    #expect(pieces.last?.finish == .length)
    try check(pieces, texts.prompt.count)
  }

  /// What pieces say of themselves adds up.
  private func check(_ pieces: [Piece], _ prompt: Int) throws {
    let said = try #require(pieces.last?.statistics)
    let rounds = pieces.filter { !$0.tokens.isEmpty }
    #expect(pieces.dropLast().allSatisfy { $0.finish == nil && $0.statistics == nil })
    #expect(said.promptTokens == prompt && said.keptTokens == 0)
    #expect(said.tokens == pieces.ids.count && said.rounds == rounds.count)
    #expect(said.accepted == pieces.flatMap(\.tokens).filter { $0.draft > 0 }.count)
    #expect(said.accepted <= said.drafted && said.tokensPerSecond > 0)
    for round in rounds {
      #expect(round.tokens.map(\.text).joined() == round.text)
      let drafts = round.tokens.map(\.draft).filter { $0 > 0 }
      #expect(drafts == Array(1..<drafts.count + 1))
    }
    let read = pieces.map(\.progress.read)
    #expect(read == read.sorted() && read.last == prompt - 1)
    #expect(Set(pieces.map(\.progress.toRead)) == [prompt - 1])
  }

  @Test func isTheSameCompiled() async throws {
    let texts = try Cases.texts
    let options = Cases.Way.likeliest.options(.fixed(3), tokens: 100)
    let pieces = try await all(Cases.model(.init(compile: true)).stream(ids: texts.prompt, options: options))
    #expect(try pieces.ids == texts.first(100))
  }

  @Test func hasOtherTokensWithAnotherSeed() async throws {
    let gemma = try Cases.model()
    let prompt = try Cases.texts.prompt
    var options = Cases.Way.drawn.options(.learned, tokens: 60)
    let first = try await all(gemma.stream(ids: prompt, options: options)).ids
    options.seed = 8
    let second = try await all(gemma.stream(ids: prompt, options: options)).ids
    options.seed = nil
    let third = try await all(gemma.stream(ids: prompt, options: options)).ids
    #expect(Set([first, second, third]).count == 3)
  }

  /// Their rounds take turns.
  @Test func twoAtTheSameTime() async throws {
    let gemma = try Cases.model()
    let texts = try Cases.texts
    let ways: [Cases.Way] = [.likeliest, .drawn]
    let made = try await withThrowingTaskGroup(of: (Cases.Way, [Int32]).self) { group in
      for way in ways {
        group.addTask {
          (way, try await all(gemma.stream(ids: texts.prompt, options: way.options(.fixed(3), tokens: 150))).ids)
        }
      }
      return try await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
    }
    for way in ways { #expect(try made[way] == texts.first(150, way)) }
  }

  /// Of another size and other weights. Each leaves memory before the next, and is in memory beside it.
  @Test(arguments: [true, false])
  func twoModelsOneAfterTheOther(_ unloads: Bool) async throws {
    let texts = try Cases.texts
    let other: Cases.Other = try Cases.read("other.json")
    let one = try Cases.model()
    let two = try Gemma4(bundle: Cases.folder.appendingPathComponent("other.bundle"), options: .init(compile: false))
    for _ in 0..<2 {
      let first = one.stream(ids: texts.prompt, options: Cases.Way.likeliest.options(.fixed(3), tokens: 40))
      #expect(try await all(first).ids == texts.first(40))
      if unloads { await one.unload() }
      let options = GenerationOptions(maxTokens: other.tokens.count, drafts: .fixed(2), temperature: 0)
      #expect(try await all(two.stream(ids: other.prompt, options: options)).ids == other.tokens)
      if unloads { await two.unload() }
    }
  }

  /// And what it says of itself is not the stop token's text.
  @Test func endsAtAStop() async throws {
    let gemma = try Cases.model()
    let pieces = try await all(gemma.stream([Message(.user, "The wall was high, and")]))
    #expect(pieces.last?.finish == .stop)
    #expect(try gemma.manifest.text.stops.contains(#require(pieces.ids.last)))
    #expect(pieces.text == gemma.tokenizer.decode(pieces.ids.dropLast(), skippingSpecialTokens: false))
  }

  @Test func prewarmedIsTheSame() async throws {
    let gemma = try Cases.model()
    try await gemma.prewarm()
    #expect(await gemma.residence.isLoaded)
    let texts = try Cases.texts
    let options = Cases.Way.likeliest.options(.fixed(3), tokens: 20)
    #expect(try await all(gemma.stream(ids: texts.prompt, options: options)).ids == texts.first(20))
  }
}
