import Foundation
import Testing

@testable import Gemma4

/// What will not do is refused in one sentence.
struct ErrorTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let options: GenerationOptions
    let sentence: String
    var testDescription: String { sentence }
  }

  static let cases = [
    Case(options: .init(maxTokens: 0), sentence: "maxTokens is 0, expected at least 1"),
    Case(options: .init(drafts: .fixed(9)), sentence: "a round has 9 drafts, and the bundle has rounds of 0 to 8"),
    Case(options: .init(drafts: .fixed(-1)), sentence: "a round has -1 drafts, and the bundle has rounds of 0 to 8"),
    Case(options: .init(drafts: .pattern([])), sentence: "the pattern of drafts is empty"),
    Case(options: .init(temperature: -1), sentence: "temperature is -1.0, expected 0.0 to 10000.0"),
    Case(options: .init(temperature: .nan), sentence: "temperature is nan, expected 0.0 to 10000.0"),
    Case(options: .init(temperature: 1, topP: 0), sentence: "topP is 0.0, expected 1e-06 to 1.0"),
    Case(options: .init(temperature: 1, minP: 2), sentence: "minP is 2.0, expected 0.0 to 1.0"),
    Case(options: .init(temperature: 1, topK: -1), sentence: "topK is -1, expected at least 0"),
    Case(options: .init(temperature: 1, topK: 999), sentence: "topK is 999, and the bundle draws from at most 64"),
    Case(
      options: .init(draftTemperature: 1),
      sentence: "draftTemperature needs a temperature above 0: greedy decoding drafts greedily"),
  ]

  @Test(arguments: cases)
  func options(_ each: Case) async throws {
    let gemma = try Cases.model()
    await #expect(throws: Gemma4Error(each.sentence)) {
      try await all(gemma.stream(ids: [2, 300], options: each.options))
    }
    #expect(await !gemma.residence.isLoaded)
  }

  @Test func prompts() async throws {
    let gemma = try Cases.model()
    await #expect(throws: Gemma4Error("the prompt is empty")) { try await all(gemma.stream(ids: [])) }
    await #expect(throws: Gemma4Error("the prompt has the id 1024")) { try await all(gemma.stream(ids: [2, 1024])) }
    let long = Array(repeating: Int32(2), count: 4096)
    await #expect(throws: Gemma4Error("the prompt is longer than the model's context")) {
      try await all(gemma.stream(ids: long))
    }
    #expect(try await all(gemma.stream(ids: [2, 300], options: .init(maxTokens: 3))).ids.count == 3)
  }

  @Test func bundles() async throws {
    #expect(throws: Gemma4Error("cannot read /nowhere/manifest.json")) {
      try Gemma4(bundle: URL(fileURLWithPath: "/nowhere"))
    }
    #expect(throws: Gemma4Error("a limit of memory is below 0")) {
      try Gemma4(bundle: Cases.tiny, options: .init(cacheLimit: -1))
    }
    let copy = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).bundle")
    try FileManager.default.copyItem(at: Cases.tiny, to: copy)
    defer { try? FileManager.default.removeItem(at: copy) }
    let program = copy.appendingPathComponent("programs/greedy-2.json")
    try Data(contentsOf: program).dropLast(10).write(to: program)
    let gemma = try Gemma4(bundle: copy)
    do {
      try await gemma.prewarm()
      Issue.record("a program that is cut off was taken")
    } catch let error as Gemma4Error {
      #expect(error.description.contains("greedy-2.json is not of the length"))
    }
  }
}
