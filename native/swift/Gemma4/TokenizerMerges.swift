/// Which two tokens make one, and which of them first.
struct TokenizerMerges: Sendable {
  /// A pair of tokens, how early it is merged, and what it makes.
  struct Merge: Sendable {
    var pair: UInt64 = .max
    var rank: UInt32 = 0
    var made: Int32 = 0

    init() {}

    init(_ left: Int32, _ right: Int32, rank: Int, made: Int32) {
      pair = Self.pair(left, right)
      self.rank = UInt32(rank)
      self.made = made
    }

    var left: Int32 { Int32(bitPattern: UInt32(pair >> 32)) }
    var right: Int32 { Int32(bitPattern: UInt32(truncatingIfNeeded: pair)) }

    static func pair(_ left: Int32, _ right: Int32) -> UInt64 {
      UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }
  }

  private var table: [Merge]

  /// - Parameter merges: of two equal pairs the later one counts.
  init(_ merges: [Merge]) {
    var size = 16
    while 3 * size < 4 * merges.count { size *= 2 }
    table = Array(repeating: Merge(), count: size)
    for merge in merges { table[slot(of: merge.pair)] = merge }
  }

  private func slot(of pair: UInt64) -> Int {
    let mask = table.count - 1
    var slot = Int(truncatingIfNeeded: (pair &* 0x9E37_79B9_7F4A_7C15) >> 32) & mask
    while table[slot].pair != pair && table[slot].pair != .max { slot = (slot + 1) & mask }
    return slot
  }

  /// The merge of two tokens; of rank `none` if there is none.
  func merge(_ left: Int32, _ right: Int32) -> Merge {
    let found = table[slot(of: Merge.pair(left, right))]
    return found.pair == .max ? Self.nothing : found
  }

  static let none = UInt32.max
  private static let nothing = { var merge = Merge(); merge.rank = none; return merge }()
}

/// Which two characters may stand beside each other within a token. Where none may, text can be taken apart.
///
/// Pairs are known by a hash, so that a few more are believed to than do.
struct TokenizerJoints: Sendable {
  private static let bits: UInt64 = 22

  private var pairs: [UInt64] = Array(repeating: 0, count: 1 << (bits - 6))

  /// Notes that tokens are merged of which one ends in a character, and the next begins with another.
  mutating func join(_ last: Unicode.Scalar, _ first: Unicode.Scalar) {
    let bit = Self.bit(last, first)
    pairs[bit >> 6] |= 1 << UInt64(bit & 63)
  }

  func joins(_ last: Unicode.Scalar, _ first: Unicode.Scalar) -> Bool {
    let bit = Self.bit(last, first)
    return pairs[bit >> 6] >> UInt64(bit & 63) & 1 == 1
  }

  private static func bit(_ last: Unicode.Scalar, _ first: Unicode.Scalar) -> Int {
    let pair = UInt64(last.value) << 21 | UInt64(first.value)
    return Int(truncatingIfNeeded: (pair &* 0x9E37_79B9_7F4A_7C15) >> (64 - bits))
  }
}

/// Merges the tokens of a stretch of text, earliest pairs first, of equal ones the leftmost; it keeps its memory.
///
/// A heap has the pairs that may be merged next, so that the time is about linear in a stretch's length.
struct TokenizerMerger {
  private var tokens: [Int32] = []
  private var next: [Int32] = []
  private var previous: [Int32] = []
  private var pending: [TokenizerMerges.Merge] = []  // by the place of its left token
  private var heap = MinimumHeap()

  private static let gone: Int32 = -1

  /// Takes a stretch's single characters, or bytes; appends its tokens.
  mutating func merge(_ stretch: [Int32], by merges: TokenizerMerges, appendingTo ids: inout [Int32]) {
    guard stretch.count > 1 else {
      ids += stretch
      return
    }
    begin(stretch, merges)
    while let (rank, place) = heap.pop() {
      if tokens[place] != Self.gone && pending[place].rank == rank { join(place, merges) }
    }
    for token in tokens where token != Self.gone { ids.append(token) }
  }

  private mutating func begin(_ stretch: [Int32], _ merges: TokenizerMerges) {
    let count = stretch.count
    tokens = stretch
    next.removeAll(keepingCapacity: true)
    previous.removeAll(keepingCapacity: true)
    pending.removeAll(keepingCapacity: true)
    for place in 0..<count {
      next.append(Int32(place + 1))
      previous.append(Int32(place - 1))
      pending.append(TokenizerMerges.Merge())
    }
    for place in 0..<count { look(at: place, merges) }
  }

  /// Whether a token can be merged with the one behind it.
  private mutating func look(at place: Int, _ merges: TokenizerMerges) {
    let behind = Int(next[place])
    guard behind < tokens.count else {
      pending[place].rank = TokenizerMerges.none
      return
    }
    pending[place] = merges.merge(tokens[place], tokens[behind])
    if pending[place].rank != TokenizerMerges.none { heap.push(pending[place].rank, place) }
  }

  private mutating func join(_ place: Int, _ merges: TokenizerMerges) {
    let behind = Int(next[place])
    tokens[place] = pending[place].made
    tokens[behind] = Self.gone
    next[place] = next[behind]
    if Int(next[place]) < tokens.count { previous[Int(next[place])] = Int32(place) }
    look(at: place, merges)
    if previous[place] >= 0 { look(at: Int(previous[place]), merges) }
  }
}

/// Pairs of numbers, the smallest first.
private struct MinimumHeap {
  private var keys: [UInt64] = []

  mutating func push(_ rank: UInt32, _ place: Int) {
    let key = UInt64(rank) << 32 | UInt64(place)
    var hole = keys.count
    keys.append(key)
    while hole > 0, keys[(hole - 1) / 2] > key {
      keys[hole] = keys[(hole - 1) / 2]
      hole = (hole - 1) / 2
    }
    keys[hole] = key
  }

  mutating func pop() -> (rank: UInt32, place: Int)? {
    guard let top = keys.first, let key = keys.popLast() else { return nil }
    if !keys.isEmpty { sink(key) }
    return (UInt32(top >> 32), Int(top & 0xFFFF_FFFF))
  }

  private mutating func sink(_ key: UInt64) {
    var hole = 0
    while 2 * hole + 1 < keys.count {
      var child = 2 * hole + 1
      if child + 1 < keys.count, keys[child + 1] < keys[child] { child += 1 }
      guard keys[child] < key else { break }
      keys[hole] = keys[child]
      hole = child
    }
    keys[hole] = key
  }
}
