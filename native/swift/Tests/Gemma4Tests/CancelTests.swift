import Foundation
import Testing

@testable import Gemma4

/// Nobody wants the text any more: a round, or a piece of the prompt, is the last.
struct CancelTests {
  /// After so many pieces: while the prompt is read, and while rounds are made.
  static let places = [1, 2, 30, 60]

  @Test(arguments: places)
  func leavingTheLoop(_ place: Int) async throws {
    let gemma = try Cases.model()
    let stream = try gemma.stream(ids: Cases.texts.long, options: .init(maxTokens: 1000, drafts: .fixed(3)))
    var seen = 0
    for try await _ in stream {
      seen += 1
      if seen == place { break }
    }
    let pieces = await gemma.residence.pieces
    #expect(pieces == place)
    try await rest()
    #expect(await gemma.residence.pieces == pieces)
  }

  /// The one that is under way comes, and says so.
  @Test(arguments: places)
  func cancellingTheTask(_ place: Int) async throws {
    let gemma = try Cases.model()
    let stream = try gemma.stream(ids: Cases.texts.long, options: .init(maxTokens: 1000, drafts: .fixed(3)))
    let seen = Locked<[Piece]>([])
    let task = Task {
      for try await piece in stream {
        seen { $0.append(piece) }
        // Cancelled while the next one is being made, since this one asks for it at once.
      }
    }
    while seen({ $0.count }) < place { await Task.yield() }
    task.cancel()
    let atCancel = await gemma.residence.pieces
    _ = try await task.value
    let after = await gemma.residence.pieces
    #expect(after <= atCancel + 1)
    try await rest()
    #expect(await gemma.residence.pieces == after)
    let last = try #require(seen { $0.last })
    #expect(last.finish == nil || last.finish == .cancelled && last.statistics != nil)
  }

  /// Cancelled from within: the piece that is being made is the last.
  @Test func cancellingBeforeAPiece() async throws {
    let gemma = try Cases.model()
    let stream = try gemma.stream(ids: Cases.texts.prompt, options: .init(maxTokens: 1000))
    let task = Task {
      withUnsafeCurrentTask { $0?.cancel() }
      return try await all(stream)
    }
    #expect(try await task.value.isEmpty)
    #expect(await !gemma.residence.isLoaded)
  }

  /// What the engine makes next, after a text that was left, is as if nothing had been.
  @Test func theNextTextIsWhole() async throws {
    let gemma = try Cases.model()
    let texts = try Cases.texts
    for place in [1, 3, 5] {
      var seen = 0
      for try await _ in gemma.stream(ids: texts.prompt) {
        seen += 1
        if seen == place { break }
      }
      let options = Cases.Way.likeliest.options(.fixed(3), tokens: 30)
      #expect(try await all(gemma.stream(ids: texts.prompt, options: options)).ids == texts.first(30))
    }
  }

  /// Long enough for several rounds, if any were made.
  private func rest() async throws {
    try await Task.sleep(for: .milliseconds(200))
  }
}
