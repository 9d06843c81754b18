import Foundation
import Testing

@testable import Gemma4

struct ManifestTests {
  @Test func saysWhatTheModelIs() throws {
    let manifest = try Manifest(bundle: Cases.tiny)
    #expect(manifest.name == "tiny")
    #expect(manifest.vocabulary == 1024)
    #expect(manifest.drafts == 8)
  }

  @Test func refusesWhatIsNoBundle() throws {
    let folder = URL(fileURLWithPath: "/nowhere")
    #expect(throws: Gemma4Error("cannot read /nowhere/manifest.json")) { try Manifest(bundle: folder) }
    #expect(throws: Gemma4Error("/nowhere is no bundle of mlx_gemma4_assist")) {
      try Manifest(json: Data("{}".utf8), of: folder)
    }
    let later = Data(#"{"format": "mlx_gemma4_assist bundle", "version": 2}"#.utf8)
    #expect(throws: Gemma4Error("/nowhere is of version 2 of the format, expected 1: export it anew")) {
      try Manifest(json: later, of: folder)
    }
    let less = Data(#"{"format": "mlx_gemma4_assist bundle", "version": 1, "name": 3}"#.utf8)
    #expect(throws: Gemma4Error("the manifest of /nowhere lacks what it must have: name")) {
      try Manifest(json: less, of: folder)
    }
  }
}
