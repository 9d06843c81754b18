import Foundation
import Testing

@testable import Gemma4

/// Rounds to pieces: each of one channel, with all tokens.
struct AssemblerTests {
  let tokenizer: Tokenizer
  let manifest: Manifest
  let open: Int32 = 4
  let close: Int32 = 2
  let stop: Int32 = 1

  /// The embedded pair's, in which two tokens are made markers.
  init() throws {
    tokenizer = try Cases.model().tokenizer
    let said = try String(contentsOf: Cases.tiny.appendingPathComponent("manifest.json"), encoding: .utf8)
    let changed = said.replacing(#""markers": {"#, with: #""markers": {"open": 4, "close": 2, "#)
    manifest = try Manifest(json: Data(changed.utf8), of: Cases.tiny)
    #expect(manifest.text.markers.open == open && manifest.text.stops.contains(stop))
  }

  private func round(_ ids: [Int32], finish: Piece.Finish? = nil) -> EnginePiece {
    let last = ids.count - 1
    let tokens = ids.enumerated().map { Piece.Token(id: $1, draft: $0 < last ? $0 + 1 : 0) }
    return EnginePiece(
      tokens: tokens, progress: .init(read: 7, toRead: 7), kept: 0, drafted: last, accepted: last, finish: finish)
  }

  @Test func aRoundOfTwoChannelsIsTwoPieces() {
    var assembler = Assembler(manifest, tokenizer)
    let thought = tokenizer.encode("thought\nso it")
    let answer = tokenizer.encode("yes")
    let ids: [Int32] = [open] + thought + [close] + answer + [stop]
    let made = assembler.add(round(ids, finish: .stop))
    #expect(made.map(\.channel) == [.thought, .answer])
    #expect(made.map(\.text) == ["so it", "yes"])
    #expect(made.map(\.finish) == [nil, .stop])
    #expect(made.ids == ids)
    let drafts = made.flatMap { $0.tokens.map(\.draft) }
    #expect(drafts.dropLast() == Array(1..<ids.count)[...])
    #expect(drafts.last == 0)
    #expect(made[0].tokens.map(\.id) == [open] + thought + [close])
    #expect(made.allSatisfy { $0.progress == Piece.Progress(read: 7, toRead: 7) })
  }

  @Test func aChannelGoesOnInTheNextRound() {
    var assembler = Assembler(manifest, tokenizer)
    let first = assembler.add(round([open] + tokenizer.encode("thought\nso")))
    let second = assembler.add(round(tokenizer.encode(" it")))
    let third = assembler.add(round([close] + tokenizer.encode("yes"), finish: .length))
    let made: [Piece] = first + second + third
    #expect(made.map(\.channel) == [.thought, .thought, .answer])
    #expect(made.map(\.text) == ["so", " it", "yes"])
  }

  @Test func aPromptMayHaveOpenedAThought() {
    let opened: [Int32] = [stop, open] + tokenizer.encode("thought\n")
    var inside = Assembler(manifest, tokenizer, behind: opened)
    #expect(inside.add(round(tokenizer.encode("so"))).first?.channel == .thought)
    var behind = Assembler(manifest, tokenizer, behind: opened + [close])
    #expect(behind.add(round(tokenizer.encode("so"))).first?.channel == .answer)
  }

  /// It comes with the piece that ends the text, at the latest.
  @Test func unfinishedCharactersWait() throws {
    var assembler = Assembler(manifest, tokenizer)
    let bytes = try ["<0xE2>", "<0x82>", "<0xAC>"].map { try #require(tokenizer.id(of: $0)) }
    #expect(assembler.add(round([bytes[0]])).text == "")
    #expect(assembler.add(round([bytes[1]])).text == "")
    #expect(assembler.add(round([bytes[2]], finish: .length)).text == "€")
    var cut = Assembler(manifest, tokenizer)
    let made = cut.add(round(tokenizer.encode("so") + [bytes[0]], finish: .length))
    #expect(made.text == "so\u{FFFD}")
    #expect(made.flatMap(\.tokens).map(\.text).joined() == made.text)
  }

  @Test func thoughtsAreNotAmongAnAnswersIds() {
    let turn = Turn(Message(.user, "Hi"), markers: manifest.text.markers, stops: manifest.text.stops)
    var assembler = Assembler(manifest, tokenizer)
    let answer = tokenizer.encode("yes")
    let thought = tokenizer.encode("thought\nso")
    let ids: [Int32] = [open] + thought + [close] + answer + [stop]
    for piece in assembler.add(round(ids, finish: .stop)) { turn.add(piece) }
    #expect(turn.answerIds == answer)
    #expect(turn.messages == [Message(.user, "Hi"), Message(.model, "yes")])
  }
}
