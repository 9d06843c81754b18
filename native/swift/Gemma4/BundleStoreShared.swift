import Foundation

/// Downloads that are under way in this process: who asks for one that is there waits for it.
actor SharedDownloads {
  typealias Watch = @Sendable (BundleStore.Progress) -> Void
  typealias Work = @Sendable (@escaping Watch) async throws -> URL

  static let shared = SharedDownloads()

  private struct Waiter {
    var continuation: CheckedContinuation<URL, any Error>
    var watch: Watch
  }

  private struct Download {
    var task: Task<Void, Never>
    var waiters: [Int: Waiter] = [:]
  }

  private var downloads: [String: Download] = [:]
  private var count = 0

  /// What a download gives; `work` is started unless it is under way.
  ///
  /// - Parameters:
  ///   - path: says which download it is.
  ///   - progress: is called for this caller.
  ///   - work: is cancelled once all its callers have been.
  func value(
    at path: String, progress: @escaping Watch, work: @escaping Work
  ) async throws -> URL {
    while let ending = downloads[path], ending.task.isCancelled { await ending.task.value }
    count += 1
    let number = count
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        guard !Task.isCancelled else { return continuation.resume(throwing: CancellationError()) }
        if downloads[path] == nil { downloads[path] = Download(task: start(path, work)) }
        downloads[path]?.waiters[number] = Waiter(continuation: continuation, watch: progress)
      }
    } onCancel: {
      Task { await self.leave(path, number) }
    }
  }

  private func start(_ path: String, _ work: @escaping Work) -> Task<Void, Never> {
    let (steps, step) = AsyncStream.makeStream(of: BundleStore.Progress.self, bufferingPolicy: .bufferingNewest(1))
    let telling = Task { for await each in steps { tell(path, each) } }
    return Task {
      let result: Result<URL, any Error>
      do {
        result = .success(try await work { step.yield($0) })
      } catch {
        result = .failure(error)
      }
      step.finish()
      await telling.value
      end(path, result)
    }
  }

  private func tell(_ path: String, _ progress: BundleStore.Progress) {
    downloads[path]?.waiters.values.forEach { $0.watch(progress) }
  }

  private func end(_ path: String, _ result: Result<URL, any Error>) {
    downloads.removeValue(forKey: path)?.waiters.values.forEach { $0.continuation.resume(with: result) }
  }

  /// One caller was cancelled.
  private func leave(_ path: String, _ number: Int) {
    guard let waiter = downloads[path]?.waiters.removeValue(forKey: number) else { return }
    waiter.continuation.resume(throwing: CancellationError())
    if downloads[path]?.waiters.isEmpty == true { downloads[path]?.task.cancel() }
  }
}
