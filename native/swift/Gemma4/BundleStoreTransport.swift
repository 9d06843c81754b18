import Foundation

#if canImport(FoundationNetworking)
  import FoundationNetworking
#endif

/// Requests over one connection, one after the other; everything about them happens on one queue.
final class BundleTransport: NSObject, URLSessionDataDelegate, @unchecked Sendable {  // its queue alone touches its state
  private let queue = OperationQueue()
  private let configuration = URLSessionConfiguration.ephemeral
  private lazy var session = URLSession(configuration: configuration, delegate: self, delegateQueue: queue)
  private var waiting: CheckedContinuation<Void, any Error>?
  private var taker: (any AnswerTaker)?
  private var fault: (any Error)?

  /// - Parameter silence: seconds without any byte after which a connection counts as lost.
  init(silence: TimeInterval) {
    queue.maxConcurrentOperationCount = 1
    configuration.timeoutIntervalForRequest = silence
    configuration.urlCache = nil
    configuration.requestCachePolicy = .reloadIgnoringLocalCacheData
    configuration.httpShouldSetCookies = false
  }

  /// Ends the session, which holds on to its delegate until then.
  func close() {
    queue.addOperation { self.session.invalidateAndCancel() }
  }

  /// Runs what works with takers.
  func run<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
      queue.addOperation { continuation.resume(with: Result { try work() }) }
    }
  }

  /// Hands an answer's bytes to the taker, until its end.
  ///
  /// - Throws: what the taker throws, `URLError` if the connection does not last, `CancellationError`.
  func get(_ request: URLRequest, into taker: any AnswerTaker & Sendable) async throws {
    let attempt = Attempt()
    try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        queue.addOperation { self.start(request, into: taker, attempt, continuation) }
      }
    } onCancel: {
      queue.addOperation { attempt.cancel() }
    }
  }

  private func start(
    _ request: URLRequest, into taker: any AnswerTaker, _ attempt: Attempt,
    _ continuation: CheckedContinuation<Void, any Error>
  ) {
    guard !attempt.isCancelled else { return continuation.resume(throwing: CancellationError()) }
    let task = session.dataTask(with: request)
    (waiting, self.taker, fault, attempt.task) = (continuation, taker, nil, task)
    task.resume()
  }

  func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
    guard fault == nil, let taker, let response = dataTask.response as? HTTPURLResponse else { return }
    do {
      try taker.take(data, of: response)
    } catch {
      fault = error
      dataTask.cancel()
    }
  }

  func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
    let status = (task.response as? HTTPURLResponse)?.statusCode ?? 0
    switch (fault, error) {
    case (let fault?, _): waiting?.resume(throwing: fault)
    case (nil, let error as URLError) where error.code == .cancelled: waiting?.resume(throwing: CancellationError())
    case (nil, let error?): waiting?.resume(throwing: error)
    case (nil, nil) where status != 200 && status != 206: waiting?.resume(throwing: AnswerFault.status(status))
    case (nil, nil): waiting?.resume()
    }
    (waiting, taker, fault) = (nil, nil, nil)
  }

  /// A request that may be cancelled before it begins. The transport's queue alone touches it.
  private final class Attempt: @unchecked Sendable {
    var task: URLSessionTask?
    private(set) var isCancelled = false

    func cancel() {
      isCancelled = true
      task?.cancel()
    }
  }
}
