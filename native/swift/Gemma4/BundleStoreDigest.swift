import Foundation

#if canImport(CryptoKit)
  import CryptoKit
#endif

/// SHA-256 (FIPS 180-4) of bytes that come in pieces. On Apple's systems CryptoKit's.
struct SHA256Digest {
  #if canImport(CryptoKit)
    private var state = SHA256()

    mutating func add(_ data: Data) { state.update(data: data) }

    /// All that was added, in hexadecimal digits.
    func finish() -> String { Self.hex(state.finalize()) }
  #else
    private var state = SHA256State()

    mutating func add(_ data: Data) { data.withUnsafeBytes { state.add($0) } }

    /// All that was added, in hexadecimal digits.
    func finish() -> String { Self.hex(state.finished()) }
  #endif

  static func hex(of data: Data) -> String {
    var digest = SHA256Digest()
    digest.add(data)
    return digest.finish()
  }

  private static func hex(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
  }
}

#if !canImport(CryptoKit)
  /// Blocks of 64 bytes, and the eight words that they change.
  private struct SHA256State {
    private var words: [UInt32] = [
      0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    private var schedule = [UInt32](repeating: 0, count: 64)
    private var rest: [UInt8] = []
    private var count: UInt64 = 0

    mutating func add(_ bytes: UnsafeRawBufferPointer) {
      count += UInt64(bytes.count)
      var begin = 0
      if !rest.isEmpty {
        begin = min(64 - rest.count, bytes.count)
        rest.append(contentsOf: bytes[..<begin])
        if rest.count < 64 { return }
        let block = rest
        block.withUnsafeBytes { compress($0, 0) }
        rest.removeAll(keepingCapacity: true)
      }
      while begin + 64 <= bytes.count {
        compress(bytes, begin)
        begin += 64
      }
      rest.append(contentsOf: bytes[begin...])
    }

    func finished() -> [UInt8] {
      var last = self
      let zeros = (119 - rest.count) % 64
      let length = (0..<8).map { UInt8(truncatingIfNeeded: (count << 3) >> (56 - 8 * UInt64($0))) }
      ([0x80] + [UInt8](repeating: 0, count: zeros) + length).withUnsafeBytes { last.add($0) }
      return last.words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * UInt32($0))) } }
    }

    private mutating func compress(_ bytes: UnsafeRawBufferPointer, _ begin: Int) {
      schedule.withUnsafeMutableBufferPointer { w in
        for i in 0..<16 {
          w[i] = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: begin + 4 * i, as: UInt32.self))
        }
        for i in 16..<64 {
          let (a, b) = (w[i - 15], w[i - 2])
          let low = Self.turned(a, 7) ^ Self.turned(a, 18) ^ (a >> 3)
          let high = Self.turned(b, 17) ^ Self.turned(b, 19) ^ (b >> 10)
          w[i] = w[i - 16] &+ low &+ w[i - 7] &+ high
        }
        Self.constants.withUnsafeBufferPointer { Self.rounds(w, $0, &words) }
      }
    }

    private static func rounds(
      _ w: UnsafeMutableBufferPointer<UInt32>, _ k: UnsafeBufferPointer<UInt32>, _ words: inout [UInt32]
    ) {
      var (a, b, c, d) = (words[0], words[1], words[2], words[3])
      var (e, f, g, h) = (words[4], words[5], words[6], words[7])
      for i in 0..<64 {
        let one = h &+ (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) &+ ((e & f) ^ (~e & g)) &+ k[i] &+ w[i]
        let two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) &+ ((a & b) ^ (a & c) ^ (b & c))
        (h, g, f, e) = (g, f, e, d &+ one)
        (d, c, b, a) = (c, b, a, one &+ two)
      }
      for (i, value) in [a, b, c, d, e, f, g, h].enumerated() { words[i] &+= value }
    }

    private static func turned(_ x: UInt32, _ n: UInt32) -> UInt32 { (x >> n) | (x << (32 &- n)) }

    private static let constants = roots()

    /// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    private static func roots() -> [UInt32] {
      let primes = (2...311).filter { n in (2..<n).allSatisfy { n % $0 != 0 } }
      return primes.map { prime in
        var root: UInt64 = 0  // the largest whose cube is at most prime * 2^96, compared without rounding
        for bit in stride(from: 35, through: 0, by: -1) {
          let larger = root | 1 << UInt64(bit)
          if cubeIsAtMost(larger, prime) { root = larger }
        }
        return UInt32(truncatingIfNeeded: root)
      }
    }

    private static func cubeIsAtMost(_ root: UInt64, _ prime: Int) -> Bool {
      let square = root.multipliedFullWidth(by: root)
      let low = square.low.multipliedFullWidth(by: root)
      let cube = square.high &* root &+ low.high  // 2^64 times this: the root has 36 bits at most
      return cube < UInt64(prime) << 32
    }
  }
#endif
