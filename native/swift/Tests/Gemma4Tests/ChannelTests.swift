import Foundation
import Testing

@testable import Gemma4

/// Against what the Python package makes of the same tokens; `tools/swift_cases/text.py` has asked it.
struct ChannelTests {
  private func joined(_ pieces: [ChannelText]) -> [ChannelText] {
    pieces.reduce(into: []) { joined, piece in
      if let last = joined.last, last.channel == piece.channel {
        joined[joined.count - 1] = ChannelText(last.text + piece.text, piece.channel)
      } else {
        joined.append(piece)
      }
    }
  }

  @Test(arguments: ChatFormatTests.names) func tellsChannelsApartAsThePackageDoes(name: String) throws {
    let tokenizer = try TokenizerTests.tokenizer(name)
    let content = try ChatFormatTests.content(name)
    for turn in content.turns {
      var parser = ChannelParser(content.markers, stops: content.stops, tokenizer, behind: turn.prompt)
      let pieces = turn.ids.flatMap { parser.add($0) } + parser.finish()
      let expected = try turn.pieces.map { ChannelText($0[0], try #require(Channel(rawValue: $0[1]))) }
      #expect(joined(pieces) == joined(expected), "\(turn.prompt) \(turn.ids)")
      #expect(!pieces.contains { $0.text.isEmpty })
    }
    let channels = content.turns.flatMap(\.pieces).map { $0[1] }
    #expect(Set(channels) == (content.markers.open == nil ? ["answer"] : ["answer", "thought"]))
  }

  @Test func aPromptMayOpenAThought() throws {
    let tokenizer = try TokenizerTests.tokenizer("at-once")
    let content = try ChatFormatTests.content("at-once")
    let prompt = try ChatFormat(content.chat, tokenizer).ids([Message(.user, "Hi")], thinking: true)
    var parser = ChannelParser(content.markers, stops: content.stops, tokenizer, behind: prompt)
    let turn = tokenizer.encode("well<channel|>Hello", specialTokens: true)
    let pieces = turn.flatMap { parser.add($0) } + parser.finish()
    #expect(joined(pieces) == [ChannelText("well", .thought), ChannelText("Hello", .answer)])
  }

  @Test func textThatSpellsMarkersIsText() throws {
    let tokenizer = try TokenizerTests.tokenizer("full")
    let content = try ChatFormatTests.content("full")
    var parser = ChannelParser(content.markers, stops: content.stops, tokenizer)
    let spelled = "<|channel>thought\nno<channel|>"
    let pieces = tokenizer.encode(spelled).flatMap { parser.add($0) } + parser.finish()
    #expect(joined(pieces) == [ChannelText(spelled, .answer)])
  }
}
