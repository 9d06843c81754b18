import Foundation

/// Bundles from the network: downloaded once, verified once, and from then on found on the disk.
///
/// A bundle lies on a server as `export --copy-weights` wrote it, `manifest.json` and all files that it lists below one
/// address. What was received stays when a download is interrupted, by the network, by cancelling it or by the end of
/// the process, and the next call goes on from there where the server serves ranges. Every file is compared with the
/// length and the SHA-256 that the manifest has of it, once: later calls look at lengths only, and need no network.
///
/// Callers that ask for the same bundle at once share one download, whichever store of this process they ask.
public final class BundleStore: Sendable {
  /// How far a download is.
  public struct Progress: Sendable, Equatable {
    /// Bytes that lie on the disk, those of earlier calls among them.
    public var received: Int64
    /// Bytes of all files that the manifest lists.
    public var total: Int64

    /// From 0 to 1.
    public var fraction: Double { total == 0 ? 1 : Double(received) / Double(total) }
  }

  /// Where the bundles are.
  public let folder: URL
  let patience: BundleDownload.Patience

  /// - Parameter folder: where bundles are to be; `Gemma4` in the user's Application Support unless given. It is made
  ///   when it is needed.
  public convenience init(folder: URL? = nil) {
    self.init(folder: folder, patience: .init())
  }

  init(folder: URL?, patience: BundleDownload.Patience) {
    let support = FileManager.default.urls(for: .applicationSupportDirectory, in: .userDomainMask)
    self.folder = folder ?? support[0].appendingPathComponent("Gemma4", isDirectory: true)
    self.patience = patience
  }

  /// The folder of a bundle that lies on a server, downloaded if it is not there yet.
  ///
  /// - Parameters:
  ///   - url: of the bundle, http or https; its manifest is `manifest.json` below it.
  ///   - progress: is called with each step that can be seen, never twice at once.
  /// - Throws: `Gemma4Error`, one sentence, if the bundle is not there, is damaged, or has no room;
  ///   `CancellationError` if the task was cancelled. What was received stays either way.
  public func bundle(
    from url: URL, progress: @escaping @Sendable (Progress) -> Void = { _ in }
  ) async throws -> URL {
    guard ["http", "https"].contains(url.scheme?.lowercased()), url.host != nil else {
      throw Gemma4Error("\(url.absoluteString) is no address of a server: bundles are downloaded by http or https")
    }
    let place = BundlePlace(of: url, in: folder)
    let patience = patience
    return try await SharedDownloads.shared.value(at: place.bundle.path, progress: progress) { report in
      try await BundleDownload(url: url, place: place, patience: patience, report: report).run()
    }
  }

  /// The folder of a bundle if it was downloaded as a whole; nil otherwise. The network is not asked.
  public func downloaded(_ url: URL) async -> URL? {
    let place = BundlePlace(of: url, in: folder)
    return await offPool { place.isWhole } ? place.bundle : nil
  }

  /// Removes a bundle, and what was received of it. Models that were opened from it must have been let go of.
  public func remove(_ url: URL) async throws {
    let place = BundlePlace(of: url, in: folder)
    try await offPool { try place.remove() }
  }
}

/// Runs what blocks for a while on a thread that may: never one of Swift's cooperative pool.
func offPool<Value: Sendable, Failure: Error>(
  _ work: @escaping @Sendable () throws(Failure) -> Value
) async throws(Failure) -> Value {
  let result: Result<Value, Failure> = await withCheckedContinuation { continuation in
    DispatchQueue.global(qos: .utility).async { continuation.resume(returning: Result(catching: work)) }
  }
  return try result.get()
}
