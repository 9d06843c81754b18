import Foundation

#if canImport(FoundationNetworking)
  import FoundationNetworking
#endif

/// One download of a bundle, from where earlier ones were left.
struct BundleDownload: Sendable {
  /// How much is borne before a download is given up.
  struct Patience: Sendable {
    /// Connections in a row that bring nothing.
    var failures = 5
    /// Seconds before the second attempt; twice that before the third, and so on.
    var pause = 0.25
    /// Seconds of silence.
    var silence: TimeInterval = 60
  }

  let url: URL
  let place: BundlePlace
  let patience: Patience
  let report: @Sendable (BundleStore.Progress) -> Void

  /// Downloads what is missing, and puts the bundle in its place.
  func run() async throws -> URL {
    if await offPool({ place.isWhole }) { return place.bundle }
    let transport = BundleTransport(silence: patience.silence)
    defer { transport.close() }
    do {
      let manifest = try await fetchManifest(transport)
      let listing = try BundleListing(manifest: manifest)
      let lock = try await offPool { try prepared(manifest, listing) }
      var done = listing.files.reduce(0) { $0 + place.received(of: $1) }
      for file in listing.files where !place.has(file) {
        done -= place.received(of: file)
        try await fetch(file, transport, done, listing.bytes)
        done += file.bytes
      }
      try await offPool { try place.finish(manifest) }
      report(.init(received: listing.bytes, total: listing.bytes))
      withExtendedLifetime(lock) {}
      return place.bundle
    } catch let error as Gemma4Error {
      throw Gemma4Error("cannot download \(url.absoluteString): \(error)")
    } catch let error where !(error is CancellationError) {
      throw Gemma4Error("cannot download \(url.absoluteString): \(place.staging.path): \(Self.words(error))")
    }
  }

  /// The folder, ready for files, and held for this process.
  private func prepared(_ manifest: Data, _ listing: BundleListing) throws -> FolderLock {
    try place.prepare()
    let lock = try FolderLock(place.staging)
    try place.take(manifest, listing)
    let missing = listing.bytes - listing.files.reduce(0) { $0 + place.received(of: $1) }
    if let room = place.room, room < missing {
      throw Gemma4Error("\(inUnits(missing)) are missing, and \(place.staging.path) has room for \(inUnits(room))")
    }
    return lock
  }

  private func request(_ path: String, from offset: Int64 = 0) -> URLRequest {
    var request = URLRequest(url: url.appendingPathComponent(path))
    request.setValue("identity", forHTTPHeaderField: "Accept-Encoding")  // ranges are of the file itself
    if offset > 0 { request.setValue("bytes=\(offset)-", forHTTPHeaderField: "Range") }
    return request
  }

  private func fetchManifest(_ transport: BundleTransport) async throws -> Data {
    let answer = AnswerInMemory(most: BundleListing.mostManifestBytes)
    do {
      try await transport.get(request(BundleListing.manifest), into: answer)
    } catch let fault where !(fault is CancellationError) {
      throw Gemma4Error("\(BundleListing.manifest): \(Self.words(fault))")
    }
    return answer.data
  }

  /// A file, in as many attempts as bring something.
  private func fetch(_ file: BundleListing.File, _ transport: BundleTransport, _ done: Int64, _ total: Int64) async throws {
    let report = report
    let part: PartFile
    do {
      part = try PartFile(file, at: place.part(of: file)) { report(.init(received: done + $0, total: total)) }
      while try await transport.run({ try part.review() }) { try Task.checkCancellation() }
    } catch let fault as AnswerFault {
      throw Gemma4Error("\(file.path): \(Self.words(fault))")
    }
    var (failures, damages) = (0, 0)
    while true {
      let before = part.received
      let fault = try await attempt(part, transport)
      if fault == nil, try await transport.run({ try part.verify() }) { break }
      if fault == nil || part.isComplete {
        damages += 1
        guard damages < 2 else { throw Gemma4Error("\(file.path): what the server has there is another file") }
        try await transport.run { try part.restart() }
        continue
      }
      failures = part.received > before ? 0 : failures + 1
      guard failures < patience.failures else { throw Gemma4Error("\(file.path): \(Self.words(fault!))") }
      try await Task.sleep(for: .seconds(failures == 0 ? 0 : patience.pause * pow(2, Double(failures - 1))))
    }
    try await offPool { try place.settle(file) }
  }

  /// Asks for what is missing of a file.
  ///
  /// - Returns: nil if the file is as long as it should be; otherwise what went wrong, if trying again may help.
  private func attempt(_ part: PartFile, _ transport: BundleTransport) async throws -> (any Error)? {
    do {
      if !part.isComplete || part.file.bytes == 0 {
        try await transport.get(request(part.file.path, from: part.received), into: part)
      }
      return part.isComplete ? nil : URLError(.networkConnectionLost)
    } catch AnswerFault.status(416), AnswerFault.range, AnswerFault.length {
      try await transport.run { try part.restart() }
      return AnswerFault.range
    } catch AnswerFault.status(let code) where code == 408 || code == 429 || code >= 500 {
      return AnswerFault.status(code)
    } catch let error as URLError {
      return error
    } catch let fault as AnswerFault {
      throw Gemma4Error("\(part.file.path): \(Self.words(fault))")
    }
  }

  /// An error in words, without a full stop.
  static func words(_ error: any Error) -> String {
    switch error {
    case AnswerFault.status(404): "the server has no such file (HTTP 404)"
    case AnswerFault.status(let code): "the server answers HTTP \(code)"
    case AnswerFault.range: "the server's answers do not begin where they were asked to"
    case AnswerFault.length: "the server's answer is too long"
    case AnswerFault.disk(let words): words
    case let error as URLError where error.code == .timedOut: "the server has gone silent; what was received stays"
    case let error as URLError where error.code == .cannotConnectToHost: "nobody answers at the server's address"
    case let error as URLError where error.code == .cannotFindHost: "there is no such server"
    case is URLError: "the connection failed: \(inWords(error)); what was received stays"
    default: inWords(error)
    }
  }
}

/// Bytes in the unit that suits them.
func inUnits(_ bytes: Int64) -> String {
  let units: [(Double, String)] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
  let (size, unit) = units.first { Double(bytes) >= $0.0 } ?? (1, "bytes")
  let number = Double(bytes) / size
  return size == 1 ? "\(bytes) bytes" : String(format: "%.\(number < 10 ? 1 : 0)f ", number) + unit
}

/// Keeps other processes out of a folder, for as long as it lives.
final class FolderLock: Sendable {
  private let descriptor: Int32

  /// - Throws: `Gemma4Error` if another process is there.
  init(_ folder: URL) throws {
    descriptor = open(folder.appendingPathComponent(".lock").path, O_CREAT | O_RDWR | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw Gemma4Error("\(folder.path): \(String(cString: strerror(errno)))") }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      close(descriptor)
      throw Gemma4Error("another process is downloading it")
    }
  }

  deinit { close(descriptor) }
}
