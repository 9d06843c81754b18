import Foundation
import Testing

@testable import Gemma4

struct EngineThreadTests {
  /// While the thread waits, Swift's own go on: more waits than they are would stop all.
  @Test func nothingElseWaits() async throws {
    let count = ProcessInfo.processInfo.activeProcessorCount * 4
    let started = ContinuousClock.now
    let waits = (0..<count).map { _ in Task { await Self.wait() } }
    await Task { await Task.yield() }.value
    #expect(started.duration(to: .now) < .milliseconds(20 * count - 10))
    for wait in waits { await wait.value }
    #expect(started.duration(to: .now) >= .milliseconds(20 * count))
  }

  @Test func isOneThread() async {
    let threads = await withTaskGroup(of: ObjectIdentifier.self) { group in
      for _ in 0..<50 { group.addTask { await Self.current() } }
      return await group.reduce(into: Set()) { $0.insert($1) }
    }
    #expect(threads.count == 1)
  }

  @EngineActor
  private static func wait() {
    Thread.sleep(forTimeInterval: 0.02)
  }

  @EngineActor
  private static func current() -> ObjectIdentifier {
    ObjectIdentifier(Thread.current)
  }
}
