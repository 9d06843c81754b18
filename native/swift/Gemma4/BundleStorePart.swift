import Foundation

#if canImport(FoundationNetworking)
  import FoundationNetworking
#endif

/// What is wrong with an answer.
enum AnswerFault: Error {
  /// Another status than was hoped for.
  case status(Int)
  /// It does not begin where it was asked to.
  case range
  /// It goes on beyond the end.
  case length
  /// The disk does not take it.
  case disk(String)
}

/// What takes an answer's bytes, on the transport's queue.
protocol AnswerTaker: AnyObject {
  /// The next bytes; `response` is the same for all of one answer.
  func take(_ data: Data, of response: HTTPURLResponse) throws
}

/// A whole answer of limited size.
final class AnswerInMemory: AnswerTaker, @unchecked Sendable {  // the transport's queue writes, who waited for it reads
  private(set) var data = Data()
  private let most: Int64

  init(most: Int64) { self.most = most }

  func take(_ data: Data, of response: HTTPURLResponse) throws {
    guard response.statusCode == 200 else { throw AnswerFault.status(response.statusCode) }
    guard Int64(self.data.count + data.count) <= most else { throw AnswerFault.length }
    self.data += data
  }
}

/// A file on its way: what was received stays on the disk, and what comes is added to it.
final class PartFile: AnswerTaker, @unchecked Sendable {  // all but init and received run on the transport's queue
  let file: BundleListing.File
  private let handle: FileHandle
  private let report: @Sendable (Int64) -> Void
  private var digest = SHA256Digest()
  private var digested: Int64 = 0
  private var answer: HTTPURLResponse?
  /// Bytes that lie on the disk.
  private(set) var received: Int64

  /// - Parameter report: is told of each addition, how many bytes the file has now.
  init(_ file: BundleListing.File, at url: URL, report: @escaping @Sendable (Int64) -> Void) throws {
    if !FileManager.default.fileExists(atPath: url.path) {
      try diskFault { try Data().write(to: url) }
    }
    let handle = try diskFault { try FileHandle(forUpdating: url) }
    received = Int64(try diskFault { try handle.seekToEnd() })
    self.handle = handle
    self.file = file
    self.report = report
  }

  deinit { try? handle.close() }

  /// Reads a piece of what an earlier call left, and tells whether there is more.
  func review() throws -> Bool {
    if received > file.bytes { try restart() }
    if digested == received { return false }
    try diskFault {
      try handle.seek(toOffset: UInt64(digested))
      let piece = try handle.read(upToCount: 16 << 20) ?? Data()
      if piece.isEmpty { received = digested }
      digest.add(piece)
      digested += Int64(piece.count)
      try handle.seek(toOffset: UInt64(digested))
    }
    return digested < received
  }

  func take(_ data: Data, of response: HTTPURLResponse) throws {
    if answer !== response { try begin(response) }
    guard received + Int64(data.count) <= file.bytes else { throw AnswerFault.length }
    try diskFault { try handle.write(contentsOf: data) }
    digest.add(data)
    received += Int64(data.count)
    digested = received
    report(received)
  }

  private func begin(_ response: HTTPURLResponse) throws {
    answer = response
    switch response.statusCode {
    case 200: if received > 0 { try restart() }  // this server has no ranges
    case 206: guard Self.begin(of: response) == received else { throw AnswerFault.range }
    default: throw AnswerFault.status(response.statusCode)
    }
  }

  /// Where the range begins that an answer has.
  private static func begin(of response: HTTPURLResponse) -> Int64? {
    let range = response.value(forHTTPHeaderField: "Content-Range")?.split(separator: " ").last
    return range?.split(separator: "-").first.flatMap { Int64($0) }
  }

  /// Throws away what was received.
  func restart() throws {
    try diskFault {
      try handle.truncate(atOffset: 0)
      try handle.seek(toOffset: 0)
    }
    (digest, digested, received) = (SHA256Digest(), 0, 0)
    report(0)
  }

  var isComplete: Bool { received == file.bytes }

  /// Whether the bytes are those that the manifest has a digest of; they are on the disk then, whatever happens.
  func verify() throws -> Bool {
    guard isComplete, digest.finish() == file.digest else { return false }
    try diskFault { try handle.synchronize() }
    return true
  }
}

/// Runs what works on files; what fails is a fault of the disk, in words.
private func diskFault<Value>(_ work: () throws -> Value) throws -> Value {
  do {
    return try work()
  } catch {
    throw AnswerFault.disk(inWords(error))
  }
}

/// What the system says of an error, without its name and number.
func inWords(_ error: any Error) -> String {
  let error = error as NSError
  let inner = error.userInfo[NSUnderlyingErrorKey] as? NSError ?? error
  if inner.domain == NSPOSIXErrorDomain { return String(cString: strerror(Int32(inner.code))) }
  if error.domain == NSCocoaErrorDomain, error.code == CocoaError.Code.fileWriteOutOfSpace.rawValue {
    return String(cString: strerror(ENOSPC))
  }
  return error.localizedDescription
}
