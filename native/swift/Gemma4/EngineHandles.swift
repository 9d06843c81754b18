import CGemma4
import Foundation

/// A handle of gemma4.h, which any thread may have; `@unchecked`, since C cannot say so.
private struct Handle: @unchecked Sendable {
  let pointer: OpaquePointer
}

/// A model in memory. It goes from there, on the engine's thread, when nothing has it any more.
@EngineActor
final class EngineModel {
  private let handle: Handle
  /// Pieces of prompts and rounds that its texts have made.
  fileprivate(set) var pieces = 0

  /// - Throws: ``Gemma4Error`` if the bundle is not whole.
  init(bundle: URL, options: Gemma4.Options) throws {
    var given = gemma4_options(
      compile: options.compile.map { $0 ? 1 : 0 } ?? -1, cache_limit: options.cacheLimit,
      memory_limit: options.memoryLimit)
    handle = Handle(pointer: try told { gemma4_open(bundle.path, &given, $0, $1) })
  }

  deinit {
    EngineThread.shared.run { [handle] in gemma4_close(handle.pointer) }
  }

  fileprivate func newText() throws -> Handle {
    Handle(pointer: try told { gemma4_new_text(handle.pointer, $0, $1) })
  }
}

/// A text's ids and their keys, which a later turn continues.
@EngineActor
final class EngineText {
  let model: EngineModel
  private let handle: Handle
  private var begun = 0
  private var hasEnded = true

  init(_ model: EngineModel) throws {
    self.model = model
    handle = try model.newText()
  }

  deinit {
    EngineThread.shared.run { [handle] in gemma4_free_text(handle.pointer) }
  }

  /// Continues these ids, with the keys of what they have in common with the text so far.
  ///
  /// - Returns: the number of this turn.
  /// - Throws: ``Gemma4Error`` if the prompt or an option is out of bounds.
  func begin(_ ids: [Int32], _ request: EngineRequest) throws -> Int {
    abandon(begun)
    try request.drafts.withUnsafeBufferPointer { drafts in
      var given = request.given
      given.drafts = drafts.baseAddress
      given.draft_count = drafts.count
      _ = try told { gemma4_begin(handle.pointer, ids, ids.count, &given, $0, $1) == 0 ? true : nil }
    }
    hasEnded = false
    begun += 1
    return begun
  }

  /// The next piece of the prompt, or round: one of either, for which this waits.
  func next() throws -> EnginePiece {
    var piece = gemma4_piece()
    _ = try told { gemma4_next(handle.pointer, &piece, $0, $1) == 0 ? true : nil }
    model.pieces += 1
    let made = EnginePiece(piece)
    hasEnded = made.finish != nil
    return made
  }

  /// Ends a turn, unless it has ended: no further piece or round of it begins.
  func abandon(_ turn: Int) {
    guard turn == begun, !hasEnded else { return }
    hasEnded = true
    gemma4_cancel(handle.pointer)
    var piece = gemma4_piece()
    gemma4_next(handle.pointer, &piece, nil, 0)
  }
}

/// What a text is asked for with, as the engine takes it.
struct EngineRequest: Sendable, Equatable {
  var maxTokens: Int32
  var drafts: [Int32]
  var temperature: Float = 0
  var topK: Int32 = 0
  var topP: Float = 1
  var minP: Float = 0
  var draftTemperature: Float = 0
  var seed: UInt64 = 0

  fileprivate var given: gemma4_request {
    gemma4_request(
      max_tokens: maxTokens, drafts: nil, draft_count: 0, temperature: temperature, top_k: topK, top_p: topP,
      min_p: minP, draft_temperature: draftTemperature, seed: seed)
  }
}

/// What the engine made: a piece of the prompt was read, or a round was made.
struct EnginePiece: Sendable {
  let tokens: [Piece.Token]
  let progress: Piece.Progress
  let kept: Int
  let drafted: Int
  let accepted: Int
  let finish: Piece.Finish?
}

extension EnginePiece {
  fileprivate init(_ piece: gemma4_piece) {
    accepted = Int(piece.accepted)
    drafted = Int(piece.drafted)
    kept = Int(piece.kept)
    progress = Piece.Progress(read: Int(piece.read), toRead: Int(piece.to_read))
    let ids = withUnsafeBytes(of: piece.tokens) { Array($0.bindMemory(to: Int32.self).prefix(Int(piece.count))) }
    tokens = ids.enumerated().map { Piece.Token(id: $1, draft: $0 < piece.accepted ? $0 + 1 : 0) }
    finish =
      switch piece.finish {
      case GEMMA4_STOPPED: .stop
      case GEMMA4_LENGTH: .length
      case GEMMA4_CANCELLED: .cancelled
      default: nil
      }
  }
}

/// What a function of gemma4.h gives.
///
/// - Throws: ``Gemma4Error`` with what it says where it gives nothing.
private func told<Value>(_ action: (UnsafeMutablePointer<CChar>, Int) -> Value?) throws -> Value {
  try withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { error in
    error.initialize(repeating: 0)
    let start = error.baseAddress!
    guard let value = action(start, error.count) else { throw Gemma4Error(String(cString: start)) }
    return value
  }
}
