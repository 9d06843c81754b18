import Foundation

/// The lines of standard input, read by threads that may wait for them. The C library's own reader would hold a lock then that
/// leaving the process needs.
final class Lines: @unchecked Sendable {  // one line is asked for at a time
  private let input = FileHandle.standardInput
  private var rest = Data()
  private var hasEnded = false

  /// The next line, without its end; nil behind the last.
  func next() async -> String? {
    await withCheckedContinuation { continuation in
      Thread { continuation.resume(returning: self.read()) }.start()
    }
  }

  private func read() -> String? {
    while true {
      if let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
        defer { rest = Data(rest[(end + 1)...]) }
        return String(decoding: rest[..<end], as: UTF8.self)
      }
      if hasEnded {
        defer { rest = Data() }
        return rest.isEmpty ? nil : String(decoding: rest, as: UTF8.self)
      }
      let more = input.availableData
      hasEnded = more.isEmpty
      rest += more
    }
  }
}
