/// A text that is being made, piece by piece, as they are asked for.
@EngineActor
final class Generation {
  private enum State {
    case asked
    case running(Run)
    case ended
  }

  private let gemma: Gemma4
  private let keys: Keys
  private let options: GenerationOptions
  private let turn: Turn?
  private let prompt: @Sendable () throws -> [Int32]
  private var state = State.asked
  private var assembler: Assembler
  private var stopwatch = Stopwatch()
  private var waiting: [Piece] = []

  /// - Parameters:
  ///   - keys: what earlier turns have left, or nothing.
  ///   - turn: is told what the model answers.
  ///   - prompt: the ids to be continued; it is called on the engine's thread.
  nonisolated init(
    _ gemma: Gemma4, keys: Keys, options: GenerationOptions, turn: Turn?,
    prompt: @escaping @Sendable () throws -> [Int32]
  ) {
    self.gemma = gemma
    self.keys = keys
    self.options = options
    self.turn = turn
    self.prompt = prompt
    assembler = Assembler(gemma.manifest, gemma.tokenizer)
  }

  /// Its pieces. Nothing is made before the first is asked for, nor after the stream is let go of.
  nonisolated var stream: AsyncThrowingStream<Piece, any Error> {
    AsyncThrowingStream { try await self.next() }
  }

  private func next() throws -> Piece? {
    do {
      if waiting.isEmpty { try work() }
    } catch {
      state = .ended
      turn?.fail()
      throw error
    }
    guard !waiting.isEmpty else { return nil }
    let piece = waiting.removeFirst()
    turn?.add(piece)
    return piece
  }

  private func work() throws {
    switch state {
    case .asked:
      try begin()
      try work()
    case .running(let run):
      if turn?.isOver == true { return cut(run, [assembler.empty]) }
      let made = try run.next()
      stopwatch.add(made)
      waiting = assembler.add(made)
      if made.finish != nil { finish() } else if Task.isCancelled { cut(run, waiting) }
    case .ended: break
    }
  }

  private func begin() throws {
    stopwatch = Stopwatch()
    let request = try options.request(gemma.manifest)
    let ids = try prompt()
    state = .running(try gemma.residence.begin(ids, request, keys: keys))
    assembler = Assembler(gemma.manifest, gemma.tokenizer, behind: ids)
    stopwatch.statistics.promptTokens = ids.count
  }

  /// What was made so far is all. A stream whose task is cancelled gives the piece that is being made, if any is.
  private func cut(_ run: Run, _ made: [Piece]) {
    run.abandon()
    waiting = [made[0]]
    waiting[0].finish = .cancelled
    finish()
  }

  private func finish() {
    waiting[waiting.count - 1].statistics = stopwatch.statistics
    state = .ended
  }
}

/// Counts what a text takes.
private struct Stopwatch {
  var statistics = Statistics()
  private let start = ContinuousClock.now
  private var first: ContinuousClock.Instant?

  mutating func add(_ piece: EnginePiece) {
    statistics.keptTokens = piece.kept
    guard !piece.tokens.isEmpty else { return }
    let now = ContinuousClock.now
    if let first {
      statistics.duration = first.duration(to: now)
    } else {
      first = now
      statistics.timeToFirstToken = start.duration(to: now)
    }
    statistics.tokens += piece.tokens.count
    statistics.rounds += 1
    statistics.drafted += piece.drafted
    statistics.accepted += piece.accepted
  }
}
