import Foundation

/// What runs on the one thread that may wait for the device. Nothing of it waits on Swift's own threads.
@globalActor
actor EngineActor {
  static let shared = EngineActor()

  nonisolated var unownedExecutor: UnownedSerialExecutor {
    EngineThread.shared.asUnownedSerialExecutor()
  }
}

/// An operating system's thread that runs jobs in the order in which they come, for as long as the process lives.
///
/// `@unchecked`, since all that changes is behind the condition.
final class EngineThread: SerialExecutor, @unchecked Sendable {
  static let shared = EngineThread()

  private enum Work {
    case job(UnownedJob)
    case closure(@Sendable () -> Void)
  }

  private let condition = NSCondition()
  private var waiting: [Work] = []
  private var thread: Thread?

  private init() {
    let thread = Thread { [unowned self] in
      while true { self.perform(self.take()) }
    }
    thread.name = "Gemma4"
    thread.qualityOfService = .userInitiated
    thread.stackSize = 4 << 20
    self.thread = thread
    thread.start()
  }

  func enqueue(_ job: consuming ExecutorJob) {
    put(.job(UnownedJob(job)))
  }

  func asUnownedSerialExecutor() -> UnownedSerialExecutor {
    UnownedSerialExecutor(ordinary: self)
  }

  /// Runs this at once on the thread itself, and from elsewhere when its turn comes, without waiting for it.
  func run(_ closure: @escaping @Sendable () -> Void) {
    if Thread.current === thread { closure() } else { put(.closure(closure)) }
  }

  private func put(_ work: Work) {
    condition.lock()
    waiting.append(work)
    condition.signal()
    condition.unlock()
  }

  private func take() -> [Work] {
    condition.lock()
    defer { condition.unlock() }
    while waiting.isEmpty { condition.wait() }
    defer { waiting.removeAll() }
    return waiting
  }

  private func perform(_ all: [Work]) {
    for work in all {
      switch work {
      case .job(let job): job.runSynchronously(on: asUnownedSerialExecutor())
      case .closure(let closure): closure()
      }
    }
  }
}
