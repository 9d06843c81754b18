import Foundation
import Testing

@testable import Gemma4

@Suite(.enabled(if: BundleServer.address != nil, "python3 runs the server that bundles are downloaded from"))
struct BundleStoreTests {
  let folder: TemporaryFolder
  let store: BundleStore

  init() throws {
    folder = try TemporaryFolder()
    store = BundleStore(folder: folder.url, patience: .init(pause: 0.01))
  }

  /// Every file as it was served, and nothing is left of the download.
  private func check(_ bundle: URL, _ served: ServedBundle) throws {
    for (path, data) in served.files {
      #expect(try Data(contentsOf: bundle.appendingPathComponent(path)) == data)
    }
    let beside = try FileManager.default.contentsOfDirectory(atPath: bundle.deletingLastPathComponent().path)
    #expect(beside == [served.name])
    #expect(!FileManager.default.fileExists(atPath: bundle.appendingPathComponent(".parts").path))
  }

  /// The sentence that a download is refused with.
  private func refusal(_ url: URL) async throws -> String {
    do {
      return "nothing: it is in \(try await store.bundle(from: url).path)"
    } catch let error as Gemma4Error {
      return "\(error)"
    }
  }

  /// Receives a part of the weights, and is cancelled then; the weights are asked for by another behaviour later.
  private func receive(_ bytes: Int64, of served: ServedBundle) async throws {
    let place = BundlePlace(of: try served.url(), in: folder.url)
    let slow = BundleDownload(url: try served.url("slow=\(bytes)"), place: place, patience: store.patience) { _ in }
    let file = BundleListing.File(
      path: ServedBundle.weights, bytes: Int64(served.weights.count), digest: SHA256Digest.hex(of: served.weights))
    let task = Task { try await slow.run() }
    try await wait { place.received(of: file) >= bytes }
    task.cancel()
    await #expect(throws: CancellationError.self) { try await task.value }
    #expect(place.received(of: file) == bytes)
  }

  @Test func downloadsWhatTheManifestLists() async throws {
    let served = ServedBundle("whole")
    try await served.put()
    let steps = Steps()
    let bundle = try await store.bundle(from: served.url()) { steps.add($0) }
    try check(bundle, served)
    let seen = steps.all
    #expect(seen.last == .init(received: 50_200, total: 50_200))
    #expect(zip(seen, seen.dropFirst()).allSatisfy { $0.received <= $1.received })
    #expect(seen.last?.fraction == 1)
    #expect(try await served.requests().count == served.files.count)
  }

  /// What changes afterwards is nobody's business: a file is read once.
  @Test func verifiesOnceAndNeedsNoNetworkLater() async throws {
    let served = ServedBundle("once")
    try await served.put()
    let bundle = try await store.bundle(from: served.url())
    let asked = try await BundleServer.get("requests/\(served.name)")
    try ServedBundle.bytes(served.weights.count).write(to: bundle.appendingPathComponent(ServedBundle.weights))
    let other = BundleStore(folder: folder.url)
    #expect(try await other.bundle(from: served.url()) == bundle)
    #expect(try await other.downloaded(served.url()) == bundle)
    #expect(try await BundleServer.get("requests/\(served.name)") == asked)
  }

  @Test func goesOnWhereTheConnectionWasCut() async throws {
    let served = ServedBundle("cut")
    try await served.put()
    try check(try await store.bundle(from: served.url("cut=15000")), served)
    let weights = try await served.requests().filter { $0.file == ServedBundle.weights }
    #expect(weights.map(\.range) == [nil, "bytes=15000-", "bytes=30000-"])
    #expect(weights.map(\.status) == [200, 206, 206])
  }

  @Test func goesOnFromWhatAnEarlierCallLeft() async throws {
    let served = ServedBundle("left")
    try await served.put()
    try await receive(15_000, of: served)
    try check(try await store.bundle(from: served.url()), served)
    let asked = try await served.requests()
    #expect(asked.last == .init(file: ServedBundle.weights, range: "bytes=15000-", status: 206))
    #expect(asked.count == served.files.count + 1)
  }

  @Test func beginsAnewWhereThereAreNoRanges() async throws {
    let served = ServedBundle("ranges")
    try await served.put()
    try await receive(15_000, of: served)
    let place = BundlePlace(of: try served.url(), in: folder.url)
    let whole = BundleDownload(url: try served.url("whole"), place: place, patience: store.patience) { _ in }
    try check(try await whole.run(), served)
    #expect(try await served.requests().last == .init(file: ServedBundle.weights, range: "bytes=15000-", status: 200))
  }

  @Test func beginsAnewWhereRangesAreOthers() async throws {
    let served = ServedBundle("shifted")
    try await served.put()
    try await receive(15_000, of: served)
    let place = BundlePlace(of: try served.url(), in: folder.url)
    let shifted = BundleDownload(url: try served.url("shifted"), place: place, patience: store.patience) { _ in }
    try check(try await shifted.run(), served)
    #expect(try await served.requests().suffix(2).map(\.range) == ["bytes=15000-", nil])
  }

  @Test func givesUpWhereNothingMoreComes() async throws {
    let served = ServedBundle("never")
    try await served.put()
    let refused = try await refusal(served.url("whole+cut=15000"))
    #expect(refused.contains("weights.safetensors: the connection failed: "))
    #expect(refused.hasSuffix("; what was received stays"))
    #expect(try await served.requests().filter { $0.file == ServedBundle.weights }.count == 6)
  }

  @Test func silenceIsALostConnection() async throws {
    let served = ServedBundle("silence", weights: 9_000)
    try await served.put()
    let patient = BundleStore(folder: folder.url, patience: .init(pause: 0.01, silence: 1))
    try check(try await patient.bundle(from: served.url("slow=8000")), served)
  }

  @Test func otherBytesAreRefused() async throws {
    let served = ServedBundle("wrong")
    try await served.put()
    let refused = try await refusal(served.url("wrong=weights.safetensors"))
    #expect(refused.hasSuffix("weights.safetensors: what the server has there is another file"))
    #expect(try await store.downloaded(served.url("wrong=weights.safetensors")) == nil)
    try check(try await store.bundle(from: served.url("wrongonce=constants.safetensors")), served)
  }

  @Test func whatWasLeftIsVerifiedToo() async throws {
    let served = ServedBundle("damaged")
    try await served.put()
    try await receive(15_000, of: served)
    let place = BundlePlace(of: try served.url(), in: folder.url)
    let part = place.parts.appendingPathComponent(SHA256Digest.hex(of: served.weights))
    try ServedBundle.bytes(15_000).write(to: part)
    try check(try await store.bundle(from: served.url()), served)
    #expect(try await served.requests().suffix(2).map(\.range) == ["bytes=15000-", nil])
  }

  @Test func serversThatHaveNothingAreNamed() async throws {
    let served = ServedBundle("status")
    let url = try served.url()
    #expect(try await refusal(url) == "cannot download \(url): manifest.json: the server has no such file (HTTP 404)")
    try await served.put()
    let smallest = "programs/greedy-0.json"
    #expect(try await refusal(served.url("status=404")).hasSuffix("\(smallest): the server has no such file (HTTP 404)"))
    #expect(try await refusal(served.url("status=403")).hasSuffix("\(smallest): the server answers HTTP 403"))
    let before = try await served.requests().count
    #expect(try await refusal(served.url("status=503")).hasSuffix("\(smallest): the server answers HTTP 503"))
    #expect(try await served.requests().count == before + 5)
    let nobody = URL(string: "http://127.0.0.1:1/X.bundle")!
    #expect(try await refusal(nobody).hasSuffix("manifest.json: nobody answers at the server's address"))
    let file = URL(fileURLWithPath: "/tmp/X.bundle")
    #expect(try await refusal(file).hasSuffix("is no address of a server: bundles are downloaded by http or https"))
  }

  @Test(arguments: [
    "../x", "/x", "a/../../x", "a/..", "./x", "a//x", "", ".verified", "programs/.x", "manifest.json", "MANIFEST.json",
    "a\\..\\x", "a\nb", "x\0y", "..\u{301}/../x", "/\u{301}/../x",
  ])
  func pathsStayInTheFolder(path: String) async throws {
    var served = ServedBundle("paths")
    let said: [String: any Sendable] = ["bytes": 1, "sha256": String(repeating: "0", count: 64)]
    served.changes = { $0["files"] = [path: said] }
    try await served.put()
    let refused = try await refusal(served.url())
    #expect(refused.contains("the bundle's manifest is damaged: \(path.debugDescription) can be no file of it"))
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.url.path) == [])
  }

  @Test func manifestsThatAreNoneAreRefused() async throws {
    var served = ServedBundle("manifests")
    served.changes = { $0["format"] = "another" }
    try await served.put()
    #expect(try await refusal(served.url()).hasSuffix("what the server has there is no manifest of a bundle"))
    served.changes = { $0["weight_files"] = [["path": "../weights.safetensors", "bytes": 1]] }
    try await served.put()
    #expect(try await refusal(served.url()).hasSuffix("export it with --copy-weights"))
    for (bytes, digest) in [(-1, String(repeating: "0", count: 64)), (1, "0"), (1, String(repeating: "G", count: 64))] {
      served.changes = { $0["files"] = ["x": ["bytes": bytes, "sha256": digest]] }
      try await served.put()
      #expect(try await refusal(served.url()).hasSuffix("it has no length and digest of x"))
    }
    served.changes = { $0["files"] = ["x": $0["files"]!, "X": $0["files"]!] }
    try await served.put()
    #expect(try await refusal(served.url()).hasSuffix("no manifest of a bundle"))
  }

  @Test func callersAtOnceShareOneDownload() async throws {
    let served = ServedBundle("shared")
    try await served.put()
    let url = try served.url()
    let steps = (0..<4).map { _ in Steps() }
    let found = try await withThrowingTaskGroup(of: URL.self) { group in
      for each in steps {
        let store = BundleStore(folder: folder.url)
        group.addTask { try await store.bundle(from: url) { each.add($0) } }
      }
      return try await group.reduce(into: Set()) { $0.insert($1) }
    }
    #expect(found.count == 1)
    try check(found.first!, served)
    #expect(try await served.requests().count == served.files.count)
    #expect(steps.allSatisfy { $0.all.last?.fraction == 1 })
  }

  @Test func whoIsCancelledLeavesTheOthers() async throws {
    let served = ServedBundle("leaves")
    try await served.put()
    let url = try served.url("slow=15000")
    let patient = BundleStore(folder: folder.url, patience: .init(pause: 0.01, silence: 1))
    let steps = Steps()
    let one = Task { try await patient.bundle(from: url) { steps.add($0) } }
    let other = Task { try await patient.bundle(from: url) }
    try await wait { (steps.all.last?.received ?? 0) >= 15_000 }
    one.cancel()
    await #expect(throws: CancellationError.self) { try await one.value }
    try check(try await other.value, served)
  }

  @Test func cancellingStopsAtOnceAndTheNextCallGoesOn() async throws {
    let served = ServedBundle("cancel")
    try await served.put()
    let url = try served.url("slow=15000")
    let steps = Steps()
    let task = Task { try await store.bundle(from: url) { steps.add($0) } }
    try await wait { (steps.all.last?.received ?? 0) >= 25_200 }
    let clock = ContinuousClock()
    let taken = await clock.measure {
      task.cancel()
      await #expect(throws: CancellationError.self) { try await task.value }
    }
    #expect(taken < .seconds(2))
    let later = Task { try await store.bundle(from: url) { steps.add($0) } }
    try await wait { (steps.all.last?.received ?? 0) >= 40_200 }
    later.cancel()
    await #expect(throws: CancellationError.self) { try await later.value }
    #expect(try await served.requests().last?.range == "bytes=15000-")
  }

  @Test func fullDisksAreNamed() async throws {
    var served = ServedBundle("full")
    try await served.put()
    let place = BundlePlace(of: try served.url(), in: folder.url)
    try FileManager.default.createDirectory(at: place.parts, withIntermediateDirectories: true)
    let part = place.parts.appendingPathComponent(SHA256Digest.hex(of: served.weights))
    try FileManager.default.createSymbolicLink(atPath: part.path, withDestinationPath: "/dev/full")
    #if os(Linux)  // which has such a device
      #expect(try await refusal(served.url()).hasSuffix("weights.safetensors: No space left on device"))
    #endif
    try FileManager.default.removeItem(at: part)
    try check(try await store.bundle(from: served.url()), served)

    served = ServedBundle("large")
    served.changes = { $0["files"] = ["x": ["bytes": 200_000_000_000_000, "sha256": String(repeating: "0", count: 64)]] }
    try await served.put()
    let refused = try await refusal(served.url())
    #expect(refused.contains("200000 GB are missing, and "))
    #expect(refused.contains(" has room for "))
    #expect(try await served.requests() == [])
  }

  @Test func anotherProcessIsNotDisturbed() async throws {
    let served = ServedBundle("locked")
    try await served.put()
    let place = BundlePlace(of: try served.url(), in: folder.url)
    try place.prepare()
    let lock = try FolderLock(place.staging)
    #expect(try await refusal(served.url()).hasSuffix("another process is downloading it"))
    withExtendedLifetime(lock) {}
  }

  @Test func whatIsMissingLaterIsDownloadedAlone() async throws {
    let served = ServedBundle("repair")
    try await served.put()
    let bundle = try await store.bundle(from: served.url())
    try Data().write(to: bundle.appendingPathComponent("tokenizer.json"))
    try FileManager.default.removeItem(at: bundle.appendingPathComponent("programs"))
    #expect(try await store.downloaded(served.url()) == nil)
    let before = try await served.requests().count
    try check(try await store.bundle(from: served.url()), served)
    #expect(try await served.requests().dropFirst(before).map(\.file) == ["programs/greedy-0.json", "tokenizer.json"])
  }

  @Test func anotherManifestKeepsWhatItHasToo() async throws {
    var served = ServedBundle("changed")
    try await served.put()
    try await receive(15_000, of: served)
    served.files["tokenizer.json"] = ServedBundle.bytes(3_000)
    served.files["more.json"] = ServedBundle.bytes(10)
    try await served.put()
    let before = try await served.requests().count
    try check(try await store.bundle(from: served.url()), served)
    let asked = try await served.requests().dropFirst(before)
    #expect(asked.map(\.file) == ["more.json", "tokenizer.json", ServedBundle.weights])
    #expect(asked.last?.range == "bytes=15000-")
  }

  @Test func removedBundlesAreGone() async throws {
    let served = ServedBundle("removed")
    try await served.put()
    let bundle = try await store.bundle(from: served.url())
    try await store.remove(served.url())
    #expect(!FileManager.default.fileExists(atPath: bundle.path))
    try await store.remove(served.url())
  }

  /// Signed addresses change from day to day, names of folders do not.
  @Test func placesDependOnTheAddressAlone() {
    func place(_ url: String) -> String { BundlePlace(of: URL(string: url)!, in: folder.url).bundle.path }
    #expect(place("https://a.example/X.bundle?signature=1") == place("https://me:secret@a.example/X.bundle/#2"))
    #expect(place("https://a.example/X.bundle") != place("https://b.example/X.bundle"))
    #expect(place("https://a.example/%2e%2e%2fX%20Y").hasSuffix("X-Y"))
    #expect(BundleStore().folder.lastPathComponent == "Gemma4")
  }
}

/// Waits until something is so, half a minute at most.
private func wait(_ condition: () -> Bool) async throws {
  let end = ContinuousClock.now + .seconds(30)
  while !condition() {
    try #require(ContinuousClock.now < end, "it did not come")
    try await Task.sleep(for: .milliseconds(5))
  }
}

struct DigestTests {
  @Test func knowsTheStandardsExamples() {
    func digest(_ text: String) -> String { SHA256Digest.hex(of: Data(text.utf8)) }
    #expect(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    #expect(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    let long = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
    #expect(digest(long) == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
  }

  @Test func piecesMakeNoDifference() {
    let data = ServedBundle.bytes(300)
    for size in [1, 3, 55, 56, 63, 64, 65, 128, 299] {
      var digest = SHA256Digest()
      for begin in stride(from: 0, to: data.count, by: size) { digest.add(data[begin..<min(begin + size, data.count)]) }
      #expect(digest.finish() == SHA256Digest.hex(of: data))
    }
  }
}

/// What a download has reported.
private final class Steps: @unchecked Sendable {  // the lock guards what it has
  private let lock = NSLock()
  private var steps: [BundleStore.Progress] = []

  func add(_ step: BundleStore.Progress) { lock.withLock { steps.append(step) } }
  var all: [BundleStore.Progress] { lock.withLock { steps } }
}
