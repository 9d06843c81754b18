/// The tokens of a tokenizer: their bytes by id, and their ids by bytes.
///
/// All bytes lie in one array, and a table of open addressing finds them, so that a quarter of a million tokens are
/// there in a few allocations.
struct TokenizerVocabulary: Sendable {
  /// Ids are below this.
  static let mostIds = 1 << 24

  private struct Span: Sendable {
    var start: UInt32 = 0
    var length: UInt32 = .max  // of an id that no token has

    var isToken: Bool { length != .max }
  }

  private var text: [UInt8] = []
  private var spans: [Span] = []
  private var hashes: [UInt64] = []
  /// Ids in the lower half, a part of their hash in the upper one, so that most others are told apart right here.
  private var table: [UInt64] = []
  /// How many tokens there are.
  private(set) var count = 0
  private var longest = 0

  init(reserving bytes: Int) {
    text.reserveCapacity(bytes)
  }

  /// One more than the highest id.
  var end: Int { spans.count }

  /// Adds a token; ``index()`` makes it found by its bytes.
  ///
  /// - Returns: whether the id was free and is allowed.
  mutating func add(_ token: UnsafeBufferPointer<UInt8>, as id: Int) -> Bool {
    guard id < Self.mostIds, text.count + token.count < Int(UInt32.max) else { return false }
    if id >= spans.count {
      spans.append(contentsOf: repeatElement(Span(), count: id + 1 - spans.count))
      hashes.append(contentsOf: repeatElement(0, count: id + 1 - hashes.count))
    }
    guard !spans[id].isToken else { return false }
    spans[id] = Span(start: UInt32(text.count), length: UInt32(token.count))
    hashes[id] = Self.hash(token)
    text.append(contentsOf: token)
    count += 1
    longest = max(longest, token.count)
    return true
  }

  /// Makes all tokens found by their bytes.
  ///
  /// - Returns: whether no two have the same bytes.
  mutating func index() -> Bool {
    var size = 16
    while size < 2 * count { size *= 2 }
    table = Array(repeating: Self.free, count: size)
    for id in spans.indices where spans[id].isToken {
      let key = Self.key(hashes[id])
      let found = text.withUnsafeBufferPointer {
        slot(of: key, UnsafeBufferPointer(rebasing: $0[range(spans[id])]), Self.nothing)
      }
      guard table[found] == Self.free else { return false }
      table[found] = UInt64(key.tag) << 32 | UInt64(id)
    }
    return true
  }

  /// The id of the token with these bytes.
  func id(of token: UnsafeBufferPointer<UInt8>) -> Int32? {
    guard token.count <= longest else { return nil }
    return id(in: slot(of: Self.key(Self.hash(token)), token, Self.nothing))
  }

  func id(of token: String) -> Int32? {
    Array(token.utf8).withUnsafeBufferPointer { id(of: $0) }
  }

  /// The id of the token that has the bytes of two tokens, one behind the other.
  func id(joining left: Int32, _ right: Int32, _ powers: Powers) -> Int32? {
    let (first, second) = (spans[Int(left)], spans[Int(right)])
    guard Int(first.length) + Int(second.length) <= longest else { return nil }
    let key = Self.key(hashes[Int(left)] &* powers[Int(second.length)] &+ hashes[Int(right)])
    return text.withUnsafeBufferPointer {
      let (left, right) = ($0[range(first)], $0[range(second)])
      return id(in: slot(of: key, UnsafeBufferPointer(rebasing: left), UnsafeBufferPointer(rebasing: right)))
    }
  }

  private func id(in slot: Int) -> Int32? {
    table[slot] == Self.free ? nil : Int32(truncatingIfNeeded: table[slot])
  }

  /// The bytes of a token; nil for an id that none has.
  func bytes(of id: Int32) -> ArraySlice<UInt8>? {
    guard id >= 0, Int(id) < spans.count, spans[Int(id)].isToken else { return nil }
    return text[range(spans[Int(id)])]
  }

  func firstScalar(of id: Int32) -> Unicode.Scalar? {
    guard let token = bytes(of: id), !token.isEmpty else { return nil }
    return token.withUnsafeBufferPointer { scalar(in: $0, at: 0).0 }
  }

  func lastScalar(of id: Int32) -> Unicode.Scalar? {
    guard let token = bytes(of: id), let start = token.lastIndex(where: { $0 & 0xC0 != 0x80 }) else { return nil }
    return token.withUnsafeBufferPointer { scalar(in: $0, at: start - token.startIndex).0 }
  }

  var powers: Powers { Powers(upTo: longest) }

  private func range(_ span: Span) -> Range<Int> {
    Int(span.start)..<Int(span.start) + Int(span.length)
  }

  /// Where a token is in the table, or would be; it is given in two parts.
  private func slot(
    of key: Key, _ first: UnsafeBufferPointer<UInt8>, _ second: UnsafeBufferPointer<UInt8>
  ) -> Int {
    let mask = table.count - 1
    var slot = key.place & mask
    while table[slot] != Self.free {
      if UInt32(table[slot] >> 32) == key.tag {
        let span = spans[Int(table[slot] & 0xFFFF_FFFF)]
        let start = Int(span.start)
        if Int(span.length) == first.count + second.count, equal(first, at: start),
          equal(second, at: start + first.count)
        {
          break
        }
      }
      slot = (slot + 1) & mask
    }
    return slot
  }

  private func equal(_ bytes: UnsafeBufferPointer<UInt8>, at start: Int) -> Bool {
    for place in 0..<bytes.count where bytes[place] != text[start &+ place] { return false }
    return true
  }

  private typealias Key = (place: Int, tag: UInt32)

  private static let free = UInt64.max
  private static var nothing: UnsafeBufferPointer<UInt8> { UnsafeBufferPointer(start: nil, count: 0) }

  private static func key(_ hash: UInt64) -> Key {
    let mixed = hash &* 0x9E37_79B9_7F4A_7C15
    return (Int(mixed >> 40), UInt32(truncatingIfNeeded: mixed >> 8) & 0x7FFF_FFFF)
  }

  private static let base: UInt64 = 0x0000_0100_0000_01B3

  /// A polynomial, so that the hash of two parts comes of theirs.
  private static func hash(_ bytes: UnsafeBufferPointer<UInt8>) -> UInt64 {
    var hash: UInt64 = 0
    for byte in bytes { hash = hash &* base &+ UInt64(byte) &+ 1 }
    return hash
  }

  /// What hashes of tokens are multiplied by for what stands behind them.
  struct Powers {
    private var values: [UInt64] = [1]

    init(upTo longest: Int) {
      for _ in 0..<longest { values.append(values.last! &* TokenizerVocabulary.base) }
    }

    subscript(length: Int) -> UInt64 { values[length] }
  }
}
