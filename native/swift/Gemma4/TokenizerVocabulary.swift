import Foundation

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
    }
    guard !spans[id].isToken else { return false }
    spans[id] = Span(start: UInt32(text.count), length: UInt32(token.count))
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
      let (place, tag) = text.withUnsafeBufferPointer {
        let token = UnsafeBufferPointer(rebasing: $0[range(spans[id])])
        let key = Self.key(of: token)
        return (slot(of: key, token), key.tag)
      }
      guard table[place] == Self.free else { return false }
      table[place] = UInt64(tag) << 32 | UInt64(id)
    }
    return true
  }

  /// The id of the token with these bytes.
  func id(of token: UnsafeBufferPointer<UInt8>) -> Int32? {
    guard token.count <= longest else { return nil }
    return id(in: slot(of: Self.key(of: token), token))
  }

  func id(of token: String) -> Int32? {
    Array(token.utf8).withUnsafeBufferPointer { id(of: $0) }
  }

  /// The id of the token that has the bytes of two tokens, one behind the other.
  func id(joining left: Int32, _ right: Int32) -> Int32? {
    let (first, second) = (range(spans[Int(left)]), range(spans[Int(right)]))
    return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: first.count + second.count) { joined in
      text.withUnsafeBufferPointer {
        _ = joined.update(fromContentsOf: $0[first])
        _ = joined.suffix(from: first.count).update(fromContentsOf: $0[second])
      }
      return id(of: UnsafeBufferPointer(joined))
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

  private func range(_ span: Span) -> Range<Int> {
    Int(span.start)..<Int(span.start) + Int(span.length)
  }

  private typealias Key = (place: Int, tag: UInt32)

  private static let free = UInt64.max

  /// Where a token is in the table, or would be.
  private func slot(of key: Key, _ token: UnsafeBufferPointer<UInt8>) -> Int {
    let mask = table.count - 1
    var slot = key.place & mask
    while table[slot] != Self.free {
      if UInt32(table[slot] >> 32) == key.tag, isToken(Int(table[slot] & 0xFFFF_FFFF), token) { break }
      slot = (slot + 1) & mask
    }
    return slot
  }

  private func isToken(_ id: Int, _ token: UnsafeBufferPointer<UInt8>) -> Bool {
    guard Int(spans[id].length) == token.count, let start = token.baseAddress else { return token.isEmpty }
    return text.withUnsafeBufferPointer { memcmp($0.baseAddress! + Int(spans[id].start), start, token.count) == 0 }
  }

  /// Eight bytes at a time, since all is slow in builds for debugging that is done for each byte.
  private static func key(of token: UnsafeBufferPointer<UInt8>) -> Key {
    let bytes = UnsafeRawBufferPointer(token)
    var (hash, place) = (mixed(UInt64(token.count)), 0)
    while place + 8 <= bytes.count {
      hash = mixed(hash ^ bytes.loadUnaligned(fromByteOffset: place, as: UInt64.self))
      place += 8
    }
    if place < bytes.count {
      var rest: UInt64 = 0
      memcpy(&rest, bytes.baseAddress! + place, bytes.count - place)
      hash = mixed(hash ^ rest)
    }
    return (Int(hash >> 32), UInt32(truncatingIfNeeded: hash) & 0x7FFF_FFFF)
  }

  private static func mixed(_ hash: UInt64) -> UInt64 {
    let product = (hash ^ hash >> 32) &* 0x9E37_79B9_7F4A_7C15
    return product ^ product >> 29
  }
}
