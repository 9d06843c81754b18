import Foundation

/// What a tokenizer.json says, if it is one of Gemma's kind.
///
/// That is byte-pair encoding which falls back to bytes, with spaces written as "▁". Whatever else a file asks for is
/// refused, since it would change tokens.
struct TokenizerFile {
  /// A token that is found in texts before anything else.
  struct Added {
    var id: Int32
    var content: String
    var isSpecial: Bool
    /// Whether it is looked for behind the normalizer.
    var isNormalized: Bool
  }

  private(set) var vocabulary: TokenizerVocabulary
  private(set) var merges = TokenizerMerges([])
  private(set) var added: [Added] = []
  /// The tokens of single bytes.
  private(set) var bytes: [Int32] = []
  private(set) var joints = TokenizerJoints()
  /// Whether text can be taken apart at all: not if single bytes are merged.
  private(set) var comesApart = true
  /// Whether words are told apart before merging, as the embedded pair's tokenizer does.
  private(set) var hasWords = false

  private let name: String
  private var isMade: [Bool] = []  // by merges, of each id
  private var asked: [String: JSONValue] = [:]
  private var model: [String: JSONValue] = [:]

  /// - Throws: ``Gemma4Error`` in one sentence, for a file that is missing, damaged or of another kind.
  init(_ file: URL) throws {
    guard let data = try? Data(contentsOf: file, options: .mappedIfSafe) else {
      throw Gemma4Error("cannot read \(file.path)")
    }
    name = file.path
    vocabulary = TokenizerVocabulary(reserving: data.count / 8)
    try data.withUnsafeBytes { (raw: UnsafeRawBufferPointer) in
      try raw.withMemoryRebound(to: UInt8.self) { try read($0) }
    }
    try check()
    try addTokens()
  }

  private func refused(_ why: String) -> Gemma4Error {
    Gemma4Error("\(name) is no tokenizer of Gemma's kind: \(why)")
  }

  private mutating func read(_ text: UnsafeBufferPointer<UInt8>) throws {
    guard String(bytes: text, encoding: .utf8) != nil else { throw refused("it is not UTF-8") }
    var reader = JSONReader(text)
    do {
      try reader.object { reader, key in
        let key = String(decoding: key, as: UTF8.self)
        if key == "model" { try readModel(&reader) } else { asked[key] = try reader.value() }
      }
      try reader.end()
    } catch is JSONReader.Malformed {
      throw refused("it is damaged")
    }
  }

  private mutating func readModel(_ reader: inout JSONReader) throws {
    try reader.object { reader, key in
      switch String(decoding: key, as: UTF8.self) {
      case "vocab": try readVocabulary(&reader)
      case "merges": try readMerges(&reader)
      case let key: model[key] = try reader.value()
      }
    }
  }

  private mutating func readVocabulary(_ reader: inout JSONReader) throws {
    try reader.object { reader, token in
      let id = try reader.integer()
      guard vocabulary.add(token, as: id) else { throw refused("two tokens have the id \(id), or it is too large") }
    }
    try index()
    bytes = try (0..<256).map { byte in
      let token = byteToken(UInt8(byte))
      guard let id = vocabulary.id(of: token) else { throw refused("it has no token \(token)") }
      return id
    }
  }

  private mutating func index() throws {
    guard vocabulary.index() else { throw refused("a token has two ids") }
  }

  private mutating func readMerges(_ reader: inout JSONReader) throws {
    guard !bytes.isEmpty else { throw refused("merges stand before the tokens") }
    var isByte = Array(repeating: false, count: vocabulary.end)
    for byte in bytes { isByte[Int(byte)] = true }
    var found: [TokenizerMerges.Merge] = []
    try reader.array { reader in
      guard let (left, right) = try pair(&reader), let made = vocabulary.id(joining: left, right),
        let last = vocabulary.lastScalar(of: left), let first = vocabulary.firstScalar(of: right)
      else {
        throw refused("merge \(found.count + 1) is of tokens that are not there, or makes none")
      }
      found.append(TokenizerMerges.Merge(left, right, rank: found.count, made: made))
      joints.join(last, first)
      comesApart = comesApart && !isByte[Int(left)] && !isByte[Int(right)]
    }
    merges = TokenizerMerges(found)
    isMade = Array(repeating: false, count: vocabulary.end)
    for merge in found { isMade[Int(merge.made)] = true }
  }

  /// Two tokens, in an array or with a blank between them; nil if one is not there.
  private func pair(_ reader: inout JSONReader) throws -> (Int32, Int32)? {
    if try reader.isString() { return try reader.string(pair) }
    var (left, right, count): (Int32?, Int32?, Int) = (nil, nil, 0)
    try reader.array { reader in
      count += 1
      (left, right) = (right, try reader.string { vocabulary.id(of: $0) })
    }
    guard count == 2, let left, let right else { return nil }
    return (left, right)
  }

  private func pair(_ text: UnsafeBufferPointer<UInt8>) -> (Int32, Int32)? {
    guard let blank = text.firstIndex(of: UInt8(ascii: " ")) else { return nil }
    guard let left = vocabulary.id(of: UnsafeBufferPointer(rebasing: text[..<blank])) else { return nil }
    return vocabulary.id(of: UnsafeBufferPointer(rebasing: text[(blank + 1)...])).map { (left, $0) }
  }
}

// What is supported.
extension TokenizerFile {
  private static let known: Set = [
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
  ]  // of these truncation and padding are another's business, and a post-processor's tokens are the chat format's
  private static let modelsOwn: Set = [
    "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
    "ignore_merges",
  ]
  private static let normalizer: JSONValue = ["type": "Replace", "pattern": ["String": " "], "content": "▁"]
  private static let decoder: JSONValue = [
    "type": "Sequence",
    "decoders": [
      ["type": "Replace", "pattern": ["String": "▁"], "content": " "], ["type": "ByteFallback"], ["type": "Fuse"],
    ],
  ]
  /// Finds nothing: the normalizer leaves no spaces.
  private static let atSpaces: JSONValue = [
    "type": "Split", "pattern": ["String": " "], "behavior": "MergedWithPrevious", "invert": false,
  ]
  /// The embedded pair's.
  private static let atWords: JSONValue = [
    "type": "Split", "pattern": ["Regex": #"▁?\p{L}+|▁?\p{N}|▁?[^▁\p{L}\p{N}\n]+|\n+|▁+"#], "behavior": "Isolated",
    "invert": false,
  ]

  private mutating func check() throws {
    if let other = Set(asked.keys).subtracting(Self.known).sorted().first { throw refused("it has \(other)") }
    if let other = Set(model.keys).subtracting(Self.modelsOwn).sorted().first { throw refused("its model has \(other)") }
    guard !bytes.isEmpty else { throw refused("it has no model with tokens") }
    try checkModel()
    let cut = asked["pre_tokenizer"] ?? .null
    guard asked["normalizer"] == Self.normalizer else { throw refused("its normalizer is not the one of spaces") }
    guard asked["decoder"] == Self.decoder else { throw refused("its decoder is not Gemma's") }
    guard [.null, Self.atSpaces, Self.atWords].contains(cut) else { throw refused("its pre_tokenizer is unknown") }
    hasWords = cut == Self.atWords
    guard [nil, "TemplateProcessing"].contains(asked["post_processor"]?["type"].text) else {
      throw refused("its post_processor is no template")
    }
  }

  private func checkModel() throws {
    guard model["type"] == "BPE", model["byte_fallback"] == true else {
      throw refused("its model is not BPE that falls back to bytes")
    }
    let off: [JSONValue?] = [nil, .null, false, "", .number(0)]
    let switches = ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"]
    if let on = switches.first(where: { !off.contains(model[$0]) }) { throw refused("its model asks for \(on)") }
  }

  private mutating func addTokens() throws {
    let known = vocabulary.count
    for token in asked["added_tokens"]?.elements ?? [] {
      guard let content = token["content"].text, case .number(let number) = token["id"], let id = Int32(exactly: number)
      else { throw refused("an added token has no id or no content") }
      if let asks = ["single_word", "lstrip", "rstrip"].first(where: { token[$0] == true }) {
        throw refused("its token \(content) asks for \(asks)")
      }
      try place(content, id)
      let (isSpecial, isNormalized) = (token["special"] == true, token["normalized"] == true)
      if isSpecial && isNormalized && content.utf8.contains(0x20) {
        throw refused("its special token \(content) has a blank")  // which the normalizer makes another of
      }
      added.append(Added(id: id, content: content, isSpecial: isSpecial, isNormalized: isNormalized))
    }
    if vocabulary.count > known { try index() }
    if let token = added.first(where: { $0.isSpecial && Int($0.id) < isMade.count && isMade[Int($0.id)] }) {
      throw refused("merges make its special token \(token.content)")
    }
  }

  /// An added token that the model does not have follows its last one.
  private mutating func place(_ content: String, _ id: Int32) throws {
    if let own = vocabulary.id(of: content) {
      guard own == id else { throw refused("its token \(content) has the ids \(own) and \(id)") }
      return
    }
    let isNext = Int(id) == vocabulary.end
    guard isNext, Array(content.utf8).withUnsafeBufferPointer({ vocabulary.add($0, as: Int(id)) }) else {
      throw refused("its token \(content) has the id \(id), which is not the next one")
    }
  }
}

/// The name of a byte's token.
private func byteToken(_ byte: UInt8) -> String {
  let digits = String(byte, radix: 16, uppercase: true)
  return "<0x\(byte < 16 ? "0" : "")\(digits)>"
}
