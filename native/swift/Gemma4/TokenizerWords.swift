/// Words as the embedded pair's tokenizer tells them apart: `▁?\p{L}+|▁?\p{N}|▁?[^▁\p{L}\p{N}\n]+|\n+|▁+`.
///
/// Letters are those of Swift's Unicode, which may be newer than others'; only in tokens would that be seen, and the
/// embedded pair's have no new letters.
struct TokenizerWords {
  private enum Kind {
    case blank, letter, digit, newline, other

    init(_ scalar: Unicode.Scalar) {
      switch scalar.properties.generalCategory {
      case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: self = .letter
      case .decimalNumber, .letterNumber, .otherNumber: self = .digit
      default: self = scalar == "▁" ? .blank : scalar == "\n" ? .newline : .other
      }
    }
  }

  private var word: Kind?
  /// Whether the word so far is a single "▁" that what follows belongs to.
  private var isLeading = false

  /// Takes a text's next character; whether a word begins with it.
  ///
  /// - Parameter rest: what follows it.
  mutating func begins(with scalar: Unicode.Scalar, behind rest: Slice<UnsafeBufferPointer<UInt8>>) -> Bool {
    let kind = Kind(scalar)
    defer { word = kind }
    if isLeading {
      isLeading = false
      return false
    }
    if kind == .blank {
      let goesOn = word == .blank
      isLeading = !goesOn && leads(rest)
      return !goesOn
    }
    return kind == .digit || kind != word
  }

  /// Whether a "▁" belongs to what follows it.
  private func leads(_ rest: Slice<UnsafeBufferPointer<UInt8>>) -> Bool {
    guard let next = rest.first else { return false }
    return next != UInt8(ascii: "\n") && !rest.starts(with: blank)
  }
}
