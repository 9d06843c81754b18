import Foundation
import Testing

@testable import Gemma4

/// Files that are damaged or of another kind are refused in one sentence.
struct TokenizerFileTests {
  /// Reads a tokenizer of a few tokens, of whose file something is changed.
  private func read(_ changes: (old: String, new: String)...) throws -> Tokenizer {
    var json = Self.json
    for change in changes {
      try #require(json.contains(change.old))
      json = json.replacingOccurrences(of: change.old, with: change.new)
    }
    return try read(Data(json.utf8))
  }

  private func read(_ data: Data) throws -> Tokenizer {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).json")
    try data.write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    do {
      return try Tokenizer(contentsOf: file)
    } catch let error as Gemma4Error {
      throw Gemma4Error(error.description.replacingOccurrences(of: file.path, with: "FILE"))
    }
  }

  private static let bytes = (0..<256).map { String(format: "\"<0x%02X>\": %d", $0, $0 + 1) }.joined(separator: ", ")
  private static let json = """
    {"version": "1.0", "truncation": null, "padding": null,
     "added_tokens": [{"id": 0, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                       "special": true, "content": "<bos>"}],
     "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
     "pre_tokenizer": null, "post_processor": null,
     "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                  {"type": "ByteFallback"}, {"type": "Fuse"}]},
     "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
               "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
               "vocab": {"<bos>": 0, \(bytes), "a": 257, "b": 258, "ab": 259, "\\u0022\\ud83d\\uDC08": 260},
               "merges": [["a", "b"]]}}
    """

  @Test func readsWhatIsOfItsKind() throws {
    let tokenizer = try read()
    #expect(tokenizer.encode("abba") == [259, 258, 257])
    #expect(tokenizer.token(of: 260) == "\"🐈")
    #expect(try read(("[\"a\", \"b\"]", "\"a b\"")).encode("ab") == [259])
    let added = try read(("\"content\": \"<bos>\"", "\"content\": \"new\", \"id\": 261"))
    #expect(added.encode("anew", specialTokens: true) == [257, 261])
  }

  typealias Kind = (old: String, new: String, why: String)
  static let kinds: [Kind] = [
    ("\"Replace\", \"pattern\": {\"String\": \" \"}", "\"NFC\"", "its normalizer is not the one of spaces"),
    ("\"ByteFallback\"", "\"Strip\"", "its decoder is not Gemma's"),
    ("\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}", "its pre_tokenizer is unknown"),
    ("\"post_processor\": null", "\"post_processor\": {\"type\": \"ByteLevel\"}", "its post_processor is no template"),
    ("\"BPE\"", "\"Unigram\"", "its model is not BPE that falls back to bytes"),
    ("\"byte_fallback\": true", "\"byte_fallback\": false", "its model is not BPE that falls back to bytes"),
    ("\"ignore_merges\": false", "\"ignore_merges\": true", "its model asks for ignore_merges"),
    ("\"dropout\": null", "\"dropout\": 0.1", "its model asks for dropout"),
    ("\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", "its model asks for end_of_word_suffix"),
    ("\"fuse_unk\"", "\"something\"", "its model has something"),
    ("\"padding\"", "\"something\"", "it has something"),
    ("\"lstrip\": false", "\"lstrip\": true", "its token <bos> asks for lstrip"),
    (
      "\"content\": \"<bos>\"", "\"content\": \"a new\", \"id\": 261, \"normalized\": true",
      "its special token a new has a blank"
    ),
    ("<0xFF>", "<0xff>", "it has no token <0xFF>"),
    ("\"b\": 258", "\"b\": 257", "two tokens have the id 257, or it is too large"),
    ("\"b\": 258", "\"b\": 99999999", "two tokens have the id 99999999, or it is too large"),
    ("\"b\": 258", "\"a\": 258", "a token has two ids"),
    ("[\"a\", \"b\"]", "[\"a\", \"c\"]", "merge 1 is of tokens that are not there, or makes none"),
    ("[\"a\", \"b\"]", "[\"b\", \"a\"]", "merge 1 is of tokens that are not there, or makes none"),
    ("[\"a\", \"b\"]", "[\"a\"]", "merge 1 is of tokens that are not there, or makes none"),
    ("[\"a\", \"b\"]", "\"ab\"", "merge 1 is of tokens that are not there, or makes none"),
    ("\"content\": \"<bos>\"", "\"content\": \"ab\", \"id\": 259", "merges make its special token ab"),
    ("\"id\": 0,", "\"id\": 1,", "its token <bos> has the ids 0 and 1"),
    ("\"content\": \"<bos>\"", "\"content\": \"new\"", "its token new has the id 0, which is not the next one"),
    ("\"id\": 0,", "\"id\": \"0\",", "an added token has no id or no content"),
    ("\\uDC08", "x", "it is damaged"),
    ("\"merges\": [[\"a\", \"b\"]]", "\"merges\": 3", "it is damaged"),
    ("\"b\": 258", "\"b\": -258", "it is damaged"),
  ]

  @Test(arguments: kinds) func refusesOtherKinds(change: Kind) throws {
    let expected = Gemma4Error("FILE is no tokenizer of Gemma's kind: \(change.why)")
    #expect(throws: expected) { try read((change.old, change.new)) }
  }

  @Test func refusesWhatIsDamaged() throws {
    #expect(throws: Gemma4Error("cannot read /nowhere/tokenizer.json")) {
      try Tokenizer(contentsOf: URL(fileURLWithPath: "/nowhere/tokenizer.json"))
    }
    let whole = Data(Self.json.utf8)
    for length in stride(from: 0, to: whole.count, by: 7) {
      #expect(throws: Gemma4Error.self, "cut at \(length)") { try read(whole.prefix(length)) }
    }
    for other in [Data([0x22, 0xFF, 0x22]), Data("{}".utf8), Data((Self.json + "x").utf8), Data("[[[".utf8)] {
      #expect(throws: Gemma4Error.self) { try read(other) }
    }
    let deep = String(repeating: "[", count: 100_000)
    #expect(throws: Gemma4Error.self) { try read(("\"padding\": null", "\"padding\": \(deep)")) }
  }
}
