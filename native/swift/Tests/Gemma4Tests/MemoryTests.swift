import Foundation
import Testing

@testable import Gemma4

/// Weights and keys leave memory. One test after the other, since what MLX has in use is the process's.
@Suite(.serialized)
struct MemoryTests {
  @Test func unloadLetsAllGo() async throws {
    let gemma = try Cases.model()
    try await gemma.prewarm()
    #expect(await gemma.residence.isLoaded)
    await gemma.unload()
    #expect(await !gemma.residence.isLoaded)
    try await gemma.prewarm()
    #expect(await gemma.residence.isLoaded)
  }

  @Test func textsAreFinishedBefore() async throws {
    let gemma = try Cases.model()
    let texts = try Cases.texts
    var made: [Piece] = []
    let options = Cases.Way.likeliest.options(.fixed(3), tokens: 60)
    for try await piece in gemma.stream(ids: texts.prompt, options: options) {
      if made.isEmpty { await gemma.unload() }
      #expect(await gemma.residence.isLoaded || piece.finish != nil)
      made.append(piece)
    }
    #expect(try made.ids == texts.first(60))
    #expect(try await becomes { await !gemma.residence.isLoaded })
  }

  @Test func unloadsWhenIdle() async throws {
    let gemma = try Cases.model(.init(compile: false, unloadWhenIdle: .milliseconds(300)))
    let conversation = gemma.conversation()
    _ = try await all(conversation.stream("The wall was high, and", options: .init(maxTokens: 5)))
    #expect(await gemma.residence.isLoaded)
    #expect(try await becomes { await !gemma.residence.isLoaded })
    let later = try await all(conversation.stream("Who came back?", options: .init(maxTokens: 5)))
    #expect(later.last?.statistics?.keptTokens == 0)
    #expect(await gemma.residence.isLoaded)
  }

  /// A hundred times; the first ones find what stays, such as threads and pools.
  @Test func openingAndClosingLeavesNothing() async throws {
    let prompt = try Cases.texts.prompt
    var resident: [Int] = []
    var active: [Int] = []
    for _ in 0..<100 {
      let gemma = try Cases.model()
      let options = GenerationOptions(maxTokens: 8, drafts: .fixed(2))
      #expect(try await all(gemma.stream(ids: prompt, options: options)).ids.count == 8)
      await gemma.unload()
      resident.append(residentBytes())
      active.append(gemma.memory.active)
    }
    let early = resident[10..<30].max()!
    let late = resident[80...].min()!
    #expect(late < early + 8 << 20, "\(resident)")
    #expect(active.last! <= active[5] + 1 << 20, "\(active)")
  }

  private func becomes(_ condition: () async -> Bool) async throws -> Bool {
    for _ in 0..<100 {
      if await condition() { return true }
      try await Task.sleep(for: .milliseconds(50))
    }
    return false
  }

  /// Of the process; 0 where /proc does not say.
  private func residentBytes() -> Int {
    guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return 0 }
    return text.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map { $0 * 4096 } ?? 0
  }
}
