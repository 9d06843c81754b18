import Foundation

/// Text to token ids and back, as a checkpoint's tokenizer.json says.
///
/// It makes the ids that Hugging Face's tokenizers makes, for files of Gemma's kind: byte-pair encoding that falls back
/// to bytes, with spaces written as "▁". Others are refused.
public final class Tokenizer: Sendable {
  private let vocabulary: TokenizerVocabulary
  private let merges: TokenizerMerges
  private let joints: TokenizerJoints
  private let bytes: [Int32]
  private let comesApart: Bool
  private let hasWords: Bool
  private let added: TokenizerTrie
  private let addedBehindNormalizer: TokenizerTrie
  private let special: [Int32: String]

  /// Reads a tokenizer.json. One of Gemma's size takes about half a second; in a build for debugging ten times that.
  ///
  /// - Throws: ``Gemma4Error`` for a file that is missing, damaged, or of another kind.
  public init(contentsOf file: URL) throws {
    let read = try TokenizerFile(file)
    vocabulary = read.vocabulary
    merges = read.merges
    joints = read.joints
    bytes = read.bytes
    comesApart = read.comesApart
    hasWords = read.hasWords
    var (added, behindNormalizer) = (TokenizerTrie(), TokenizerTrie())
    for token in read.added {
      if token.isNormalized {
        behindNormalizer.add(normalized(token.content.utf8), as: token.id)
      } else {
        added.add(token.content.utf8, as: token.id)
      }
    }
    self.added = added
    addedBehindNormalizer = behindNormalizer
    special = Dictionary(read.added.lazy.filter(\.isSpecial).map { ($0.id, $0.content) }, uniquingKeysWith: { $1 })
  }

  /// How many tokens there are.
  public var count: Int { vocabulary.count }

  /// The id of a token as the file spells it, with "▁" for spaces; nil if there is none.
  public func id(of token: String) -> Int32? {
    vocabulary.id(of: token)
  }

  /// A token as the file spells it; nil for an id that none has.
  public func token(of id: Int32) -> String? {
    vocabulary.bytes(of: id).map { String(decoding: $0, as: UTF8.self) }
  }

  /// The spellings of special tokens, those that are control tokens rather than text.
  var specialTokens: some Collection<String> { special.values }

  func isSpecial(_ id: Int32) -> Bool { special[id] != nil }

  /// The bytes of a token; nil for an id that none has.
  func bytes(of id: Int32) -> ArraySlice<UInt8>? { vocabulary.bytes(of: id) }

  /// A text's token ids, without one that begins texts.
  ///
  /// - Parameter specialTokens: whether special tokens that the text spells become their ids; otherwise they are text.
  public func encode(_ text: String, specialTokens: Bool = false) -> [Int32] {
    var text = text
    return text.withUTF8 { encode($0, specialTokens: specialTokens) }
  }

  /// The ids of text in UTF-8, which has to be valid.
  func encode(_ text: UnsafeBufferPointer<UInt8>, specialTokens: Bool) -> [Int32] {
    var ids: [Int32] = []
    var merger = TokenizerMerger()
    let isText: (Int32) -> Bool = { !specialTokens && self.isSpecial($0) }
    added.split(text, leavingOut: isText, token: { ids.append($0) }) { part in
      normalized(part).withUnsafeBufferPointer { part in
        addedBehindNormalizer.split(part, leavingOut: isText, token: { ids.append($0) }) {
          encodePlain($0, &merger, appendingTo: &ids)
        }
      }
    }
    return ids
  }

  /// Text without added tokens: taken apart where no token goes on, and each stretch merged by itself.
  private func encodePlain(
    _ text: UnsafeBufferPointer<UInt8>, _ merger: inout TokenizerMerger, appendingTo ids: inout [Int32]
  ) {
    var words = TokenizerWords()
    var stretch: [Int32] = []
    var (place, last): (Int, Unicode.Scalar) = (0, "\0")
    while place < text.count {
      let (scalar, length) = scalar(in: text, at: place)
      let begins = hasWords && words.begins(with: scalar, behind: text[(place + length)...])
      if begins || (comesApart && place > 0 && !joints.joins(last, scalar)) {
        merger.merge(stretch, by: merges, appendingTo: &ids)
        stretch.removeAll(keepingCapacity: true)
      }
      let letter = UnsafeBufferPointer(rebasing: text[place..<place + length])
      if let id = vocabulary.id(of: letter) {
        stretch.append(id)
      } else {
        for byte in letter { stretch.append(bytes[Int(byte)]) }
      }
      (place, last) = (place + length, scalar)
    }
    merger.merge(stretch, by: merges, appendingTo: &ids)
  }

  /// The text of token ids; ids that no token has are left out. Bytes that make no characters become U+FFFD.
  public func decode(_ ids: [Int32], skippingSpecialTokens: Bool = false) -> String {
    var decoder = StreamDecoder(self, skippingSpecialTokens: skippingSpecialTokens)
    var text = ""
    for id in ids { text += decoder.add(id) }
    return text + decoder.finish()
  }
}

/// "▁", which stands for a space in tokens.
let blank: [UInt8] = Array("▁".utf8)

/// Text as tokens have it.
private func normalized(_ text: some Collection<UInt8>) -> [UInt8] {
  var written: [UInt8] = []
  written.reserveCapacity(text.count + text.count / 2)
  for byte in text {
    if byte == 0x20 { written += blank } else { written.append(byte) }
  }
  return written
}
