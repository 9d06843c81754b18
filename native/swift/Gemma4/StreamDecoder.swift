/// Token ids to text, one at a time; all of it together is what ``Tokenizer/decode(_:skippingSpecialTokens:)`` makes.
///
/// Text comes with the token that finishes it, never a part of a character. Runs of tokens that are single bytes are
/// held back until they end, since a run that is not valid as a whole becomes U+FFFD, byte by byte.
public struct StreamDecoder: Sendable {
  private let tokenizer: Tokenizer
  private let skipping: Bool
  private var run: [UInt8] = []

  /// - Parameter skippingSpecialTokens: whether special tokens have no text.
  public init(_ tokenizer: Tokenizer, skippingSpecialTokens: Bool = true) {
    self.tokenizer = tokenizer
    skipping = skippingSpecialTokens
  }

  /// The text that a token finishes; empty if there is none, or no token has the id.
  public mutating func add(_ id: Int32) -> String {
    guard let token = tokenizer.bytes(of: id), !(skipping && tokenizer.isSpecial(id)) else { return "" }
    if let byte = byte(of: token) {
      run.append(byte)
      return ""
    }
    return finish() + text(of: token)
  }

  /// The text that was held back, when no more tokens are to come, or another text begins.
  public mutating func finish() -> String {
    defer { run.removeAll(keepingCapacity: true) }
    if run.withUnsafeBufferPointer(isValidUTF8) { return String(decoding: run, as: UTF8.self) }
    return String(repeating: "\u{FFFD}", count: run.count)
  }

  private func text(of token: ArraySlice<UInt8>) -> String {
    var text: [UInt8] = []
    var place = token.startIndex
    while place < token.endIndex {
      let isBlank = token[place...].starts(with: blank)
      text.append(isBlank ? 0x20 : token[place])
      place += isBlank ? blank.count : 1
    }
    return String(decoding: text, as: UTF8.self)
  }

  /// The byte that a token such as `<0x0A>` stands for.
  private func byte(of token: ArraySlice<UInt8>) -> UInt8? {
    guard token.count == 6, token.starts(with: "<0x".utf8), token.last == UInt8(ascii: ">") else { return nil }
    let digits = token.dropFirst(3).prefix(2)
    guard digits.allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }) else { return nil }
    return UInt8(String(decoding: digits, as: UTF8.self), radix: 16)
  }
}
