import Foundation
import Testing

@testable import Gemma4

/// Against what Hugging Face's tokenizers makes of the same texts and ids; `tools/swift_cases/text.py` has asked it.
struct TokenizerTests {
  private struct Tokens: Decodable {
    let text: String
    let ids: [Int32]
    /// With special tokens as text; nil if that makes no difference.
    let plain: [Int32]?
  }

  private struct Text: Decodable {
    let ids: [Int32]
    let text: String
    let skipped: String
  }

  private struct Content: Decodable {
    let tokens: [Tokens]
    let texts: [Text]
    let count: Int
  }

  static let names = ["trained", "across", "tiny", "words", "media", "bytes", "large"]

  static func tokenizer(_ name: String) throws -> Tokenizer {
    try name == "large" ? large.get() : read(name)
  }

  private static func read(_ name: String) throws -> Tokenizer {
    try Tokenizer(contentsOf: Cases.folder.appendingPathComponent("text/\(name)/tokenizer.json"))
  }

  /// Of as many tokens as Gemma's, read once.
  private static let large = Result {
    let start = ContinuousClock.now
    let tokenizer = try read("large")
    print("\(tokenizer.count) tokens read in \(ContinuousClock.now - start)")
    return tokenizer
  }

  @Test(arguments: names) func makesTheTokensOfTokenizers(name: String) throws {
    let tokenizer = try Self.tokenizer(name)
    let content = try Cases.read("text/\(name)/cases.json", as: Content.self)
    #expect(content.tokens.count >= 1_000)
    #expect(content.tokens.contains { $0.plain != nil })
    #expect(tokenizer.count == content.count)
    let wrong = content.tokens.filter {
      tokenizer.encode($0.text, specialTokens: true) != $0.ids || tokenizer.encode($0.text) != $0.plain ?? $0.ids
    }
    #expect(wrong.isEmpty, "\(wrong.count) of \(content.tokens.count), the first: \(described(wrong.first, tokenizer))")
  }

  @Test(arguments: names) func makesTheTextOfTokenizers(name: String) throws {
    let tokenizer = try Self.tokenizer(name)
    let texts = try Cases.read("text/\(name)/cases.json", as: Content.self).texts
    #expect(texts.count >= 250)
    for each in texts {
      let text = tokenizer.decode(each.ids)
      #expect(text.utf8.elementsEqual(each.text.utf8), "\(each.ids)")
      let skipped = tokenizer.decode(each.ids, skippingSpecialTokens: true)
      #expect(skipped.utf8.elementsEqual(each.skipped.utf8), "\(each.ids)")
    }
  }

  /// A megabyte of words, and of what cannot be taken apart: quadratic time would be hours.
  @Test(.timeLimit(.minutes(5)), arguments: ["large", "across"]) func encodesLongTexts(name: String) throws {
    let tokenizer = try Self.tokenizer(name)
    for long in try Cases.read("text/\(name)/long.json", as: [Tokens].self) {
      var ids: [Int32] = []
      let time = ContinuousClock().measure { ids = tokenizer.encode(long.text) }
      print("\(name): \(time) for \(long.text.utf8.count) bytes, \(ids.count) tokens")
      #expect(ids == long.plain ?? long.ids)
      let text = long.text.unicodeScalars.lazy.map { $0 == "▁" ? " " : $0 }
      #expect(tokenizer.decode(ids).unicodeScalars.elementsEqual(text))
    }
  }

  @Test func knowsTokensByTheirSpelling() throws {
    let tokenizer = try Self.tokenizer("tiny")
    #expect(tokenizer.count == 1024)
    #expect(tokenizer.id(of: "<bos>") == 2)
    #expect(tokenizer.id(of: "▁the").flatMap(tokenizer.token) == "▁the")
    #expect(tokenizer.id(of: "no token") == nil)
    #expect(tokenizer.id(of: "") == nil)
    #expect(tokenizer.token(of: -1) == nil)
    #expect(tokenizer.token(of: 1024) == nil)
  }

  @Test func controlTokensStayTextUnlessAskedFor() throws {
    let tokenizer = try Self.tokenizer("tiny")
    #expect(tokenizer.encode("<bos><|turn>", specialTokens: true) == [2, 4])
    let ids = tokenizer.encode("<bos><|turn>")
    #expect(ids.allSatisfy { $0 > 5 })
    #expect(tokenizer.decode(ids, skippingSpecialTokens: true) == "<bos><|turn>")
  }

  @Test(arguments: ["trained", "tiny", "words"]) func streamsMakeTheSameText(name: String) throws {
    let tokenizer = try Self.tokenizer(name)
    for each in try Cases.read("text/\(name)/cases.json", as: Content.self).texts {
      var decoder = StreamDecoder(tokenizer)
      let pieces = each.ids.map { decoder.add($0) } + [decoder.finish()]
      #expect(pieces.joined().utf8.elementsEqual(each.skipped.utf8), "\(each.ids)")
      #expect(decoder.finish().isEmpty)
    }
  }

  @Test func streamsHoldBackBytesOnly() throws {
    let tokenizer = try Self.tokenizer("bytes")
    var decoder = StreamDecoder(tokenizer)
    #expect(tokenizer.encode("é a ").map { decoder.add($0) } == ["", "", "é ", "", "a "])
    #expect(tokenizer.encode("é").map { decoder.add($0) } == ["", ""])
    #expect(decoder.finish() == "é")
    #expect(decoder.add(tokenizer.encode("é")[0]) == "")
    #expect(decoder.finish() == "\u{FFFD}")
  }

  private func described(_ wrong: Tokens?, _ tokenizer: Tokenizer) -> String {
    guard let wrong else { return "none" }
    let scalars = wrong.text.unicodeScalars.prefix(80).map { String($0.value, radix: 16) }
    return "\(scalars), expected \(wrong.ids.prefix(80)) and \((wrong.plain ?? wrong.ids).prefix(80)), found "
      + "\(tokenizer.encode(wrong.text, specialTokens: true).prefix(80)) and \(tokenizer.encode(wrong.text).prefix(80))"
  }
}
