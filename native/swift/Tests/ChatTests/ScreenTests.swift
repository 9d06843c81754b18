import Foundation
import Testing

@testable import Gemma4
@testable import gemma4_chat

struct ArgumentsTests {
  @Test func takesAllOptions() throws {
    let words = "X.bundle --drafts 0,3,2 --temperature 0.5 --seed 7 --max-tokens 9 --thinking --show-drafts --folder F"
    let arguments = try Arguments(words.split(separator: " ").map(String.init) + ["--system", "Be brief."])
    #expect(arguments.bundle == "X.bundle")
    #expect(arguments.options == GenerationOptions(
      maxTokens: 9, drafts: .pattern([0, 3, 2]), temperature: 0.5, seed: 7, thinking: true))
    #expect((arguments.system, arguments.folder) == ("Be brief.", "F"))
    #expect(arguments.showsDrafts)
    #expect(try Arguments(["X", "--drafts", "3"]).options.drafts == .fixed(3))
    #expect(try Arguments(["X", "--drafts", "learned"]).options == GenerationOptions())
    #expect(try Arguments(["-h"]).wantsHelp)
  }

  @Test(arguments: [
    (["X", "--drafts", "2,,3"], "--drafts is 2,,3, expected learned, a number, or numbers with commas"),
    (["X", "--seed", "-1"], "--seed is -1, expected a number"), (["X", "--seed"], "--seed wants a value"),
    (["X", "--what"], "what is --what? --help tells what there is"), (["X", "Y"], "what is Y? --help tells what there is"),
    ([], "name a bundle: gemma4-chat BUNDLE; --help tells more"),
  ])
  func refusesWhatWillNotDo(words: [String], sentence: String) {
    #expect(throws: Gemma4Error(sentence)) { try Arguments(words) }
  }

  @Test func everyOptionIsInTheHelp() {
    for option in ["drafts", "temperature", "seed", "max-tokens", "system", "thinking", "show-drafts", "folder"] {
      #expect(Arguments.help.contains("--\(option) "))
    }
  }
}

struct ScreenTests {
  /// What a screen writes.
  private final class Paper: @unchecked Sendable {  // one test writes to it
    var out = ""
    var aside = ""

    func screen(_ isTerminal: Bool, _ showsDrafts: Bool) -> Screen {
      Screen(isTerminal: isTerminal, showsDrafts: showsDrafts, out: { self.out += $0 }, aside: { self.aside += $0 })
    }
  }

  private static func piece(_ channel: Channel, _ texts: [(String, Int)]) -> Piece {
    var piece = Piece()
    piece.channel = channel
    piece.tokens = texts.map { Piece.Token(id: 0, draft: $0.1, text: $0.0) }
    piece.text = texts.map(\.0).joined()
    return piece
  }

  private static let pieces = [
    piece(.thought, []), piece(.thought, [("Hm", 0), (" so", 1)]), piece(.answer, [("", 1), ("It", 1), (" is", 2), (".", 0)]),
  ]

  private func shown(isTerminal: Bool, showsDrafts: Bool) -> Paper {
    let paper = Paper()
    var screen = paper.screen(isTerminal, showsDrafts)
    screen.prompt()
    for piece in Self.pieces { screen.show(piece) }
    screen.end(.stop, nil)
    return paper
  }

  @Test func draftsAreInColourOnATerminal() {
    #expect(
      shown(isTerminal: true, showsDrafts: true).out
        == "> \u{1B}[0m\u{1B}[2mHm\u{1B}[0m\u{1B}[2;32m so\u{1B}[0m\u{1B}[2m\n\n\u{1B}[0m\u{1B}[32mIt is\u{1B}[0m.\n")
    #expect(
      shown(isTerminal: true, showsDrafts: false).out == "> \u{1B}[0m\u{1B}[2mHm so\n\n\u{1B}[0mIt is.\n")
  }

  @Test func elsewhereItIsPlain() {
    let paper = shown(isTerminal: false, showsDrafts: true)
    #expect(paper.out == "It is.\n")
    #expect(paper.aside == "Hm so\n\n")
  }

  @Test func aLineTellsWhatItTook() {
    var statistics = Statistics()
    (statistics.tokens, statistics.rounds, statistics.drafted, statistics.accepted) = (41, 16, 48, 25)
    (statistics.promptTokens, statistics.keptTokens) = (90, 60)
    (statistics.timeToFirstToken, statistics.duration) = (.milliseconds(120), .seconds(2))
    #expect(
      Screen.line(.length, statistics)
        == "[41 tokens, 20.0 tokens/s, first after 0.12 s, 25 of 48 drafts accepted, 2.56 tokens a round, "
        + "60 of 90 prompt tokens kept, cut off at its length]")
    (statistics.drafted, statistics.accepted) = (0, 0)
    #expect(!Screen.line(.stop, statistics).contains("draft"))
    #expect(Screen.line(.cancelled, statistics).hasSuffix(", cancelled]"))
    let paper = Paper()
    var screen = paper.screen(true, false)
    screen.end(.stop, statistics)
    #expect(paper.aside == "\u{1B}[2m\(Screen.line(.stop, statistics))\u{1B}[0m\n")
  }

  @Test func anAnswerCancelledBetweenTwoPiecesSaysSo() {
    let paper = Paper()
    var screen = paper.screen(false, false)
    screen.show(Self.pieces[2])
    screen.end(nil, nil)
    #expect(paper.aside == "[4 tokens, cancelled]\n")
  }

  @Test func longPromptsAreCountedOnATerminal() {
    let paper = Paper()
    var screen = paper.screen(true, false)
    var piece = Piece()
    piece.progress = .init(read: 50, toRead: 100)
    screen.show(piece)
    #expect(paper.aside == "")
    piece.progress = .init(read: 512, toRead: 1024)
    screen.show(piece)
    screen.show(Self.pieces[1])
    #expect(paper.aside == "\r\u{1B}[Kreading: 50 %\r\u{1B}[K")
  }

  @Test func downloadsAreCountedOnATerminal() {
    let paper = Paper()
    paper.screen(true, false).say(BundleStore.Progress(received: 1_000_000, total: 4_000_000))
    paper.screen(false, false).say(BundleStore.Progress(received: 1_000_000, total: 4_000_000))
    #expect(paper.aside == "\r\u{1B}[Kdownloading: 25 % of 4 MB")
  }
}
