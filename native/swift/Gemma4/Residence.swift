import Foundation

/// A bundle's weights, in memory while they are needed.
@EngineActor
final class Residence {
  private let bundle: URL
  private let options: Gemma4.Options
  private var model: EngineModel?
  private var kept: [WeakKeys] = []
  private var users = 0
  private var isToGo = false
  private var idle: Task<Void, Never>?

  nonisolated init(bundle: URL, options: Gemma4.Options) {
    self.bundle = bundle
    self.options = options
  }

  deinit {
    idle?.cancel()
  }

  /// Whether weights are in memory.
  var isLoaded: Bool { model != nil }
  /// Pieces of prompts and rounds since the weights were read.
  var pieces: Int { model?.pieces ?? 0 }

  /// Begins to continue ids, with what is known of them. Weights stay in memory as long as the run lives.
  ///
  /// - Throws: ``Gemma4Error`` if the bundle is not whole, or the prompt or an option is out of bounds.
  func begin(_ ids: [Int32], _ request: EngineRequest, keys: Keys = Keys()) throws -> Run {
    began()
    do {
      let text = try self.text(of: keys)
      return Run(self, text, try text.begin(ids, request))
    } catch {
      ended()
      throw error
    }
  }

  private func text(of keys: Keys) throws -> EngineText {
    let opened = try model ?? EngineModel(bundle: bundle, options: options)
    model = opened
    if let text = keys.text { return text }
    let text = try EngineText(opened)
    keys.text = text
    kept.removeAll { $0.keys == nil }
    kept.append(WeakKeys(keys: keys))
    return text
  }

  /// A short text, so that kernels are there.
  func prewarm(_ manifest: Manifest) throws {
    let ids = Array(repeating: manifest.text.bos ?? 0, count: 8)
    let drafts = [0, Int32(min(1, manifest.drafts))]
    let run = try begin(ids, EngineRequest(maxTokens: 4, drafts: drafts))
    while try run.next().finish == nil {}
  }

  /// At once, or with the last text that is being made.
  func unload() {
    isToGo = users > 0
    guard users == 0 else { return }
    for each in kept { each.keys?.text = nil }
    kept = []
    model = nil
  }

  private func began() {
    users += 1
    idle?.cancel()
    idle = nil
  }

  fileprivate func ended() {
    users -= 1
    guard users == 0 else { return }
    if isToGo { return unload() }
    guard let time = options.unloadWhenIdle else { return }
    idle = Task { [weak self] in
      guard (try? await Task.sleep(for: time)) != nil else { return }
      self?.leave()
    }
  }

  private func leave() {
    if users == 0 { unload() }
  }
}

/// A turn of a text, while it is being made. Letting go of it ends the turn.
@EngineActor
final class Run {
  private let residence: Residence
  private let text: EngineText
  private let turn: Int

  fileprivate init(_ residence: Residence, _ text: EngineText, _ turn: Int) {
    self.residence = residence
    self.text = text
    self.turn = turn
  }

  deinit {
    Task { @EngineActor [residence, text, turn] in
      text.abandon(turn)
      residence.ended()
    }
  }

  /// The next piece of the prompt, or round.
  func next() throws -> EnginePiece {
    try text.next()
  }

  /// Ends the turn: no further piece or round begins.
  func abandon() {
    text.abandon(turn)
  }
}

/// The keys of a conversation, which may have to leave memory between its turns.
@EngineActor
final class Keys {
  fileprivate(set) var text: EngineText?

  nonisolated init() {}
}

private struct WeakKeys {
  weak var keys: Keys?
}
