import Foundation

/// Where a bundle is on the disk, and where it is while it is not whole.
///
/// Files take their places in `staging` once they have been verified; what is received lies in `.parts` there, named by
/// the digest that it is to have. The whole folder then takes its place at once, with a mark that says which manifest it
/// was verified by.
struct BundlePlace: Sendable {
  let bundle: URL
  let staging: URL
  private static let mark = ".verified"

  init(of url: URL, in folder: URL) {
    var plain = URLComponents(url: url, resolvingAgainstBaseURL: true) ?? URLComponents()
    (plain.query, plain.fragment, plain.user, plain.password) = (nil, nil, nil, nil)
    let address = (plain.string ?? url.absoluteString).trimmingCharacters(in: ["/"])
    let usual = CharacterSet.alphanumerics.union(["-", ".", "_"])
    let letters = url.lastPathComponent.unicodeScalars.map { usual.contains($0) ? Character($0) : "-" }
    let name = String(letters).trimmingCharacters(in: ["."])
    let key = SHA256Digest.hex(of: Data(address.utf8)).prefix(12)
    let own = folder.appendingPathComponent(String(key), isDirectory: true)
    bundle = own.appendingPathComponent(name.isEmpty ? "bundle" : name, isDirectory: true)
    staging = own.appendingPathComponent("unfinished", isDirectory: true)
  }

  var parts: URL { staging.appendingPathComponent(".parts", isDirectory: true) }

  /// Whether the bundle is there, was verified, and has all its files still, by their lengths.
  var isWhole: Bool {
    guard let manifest = try? Data(contentsOf: bundle.appendingPathComponent(BundleListing.manifest)),
      let mark = try? String(contentsOf: bundle.appendingPathComponent(Self.mark), encoding: .utf8),
      mark == SHA256Digest.hex(of: manifest), let listing = try? BundleListing(manifest: manifest)
    else { return false }
    return listing.files.allSatisfy { Self.length(of: bundle.appendingPathComponent($0.path)) == $0.bytes }
  }

  /// Makes the staging folder, of what is left of a bundle if one was damaged.
  func prepare() throws {
    let files = FileManager.default
    if files.fileExists(atPath: bundle.path) && !files.fileExists(atPath: staging.path) {
      try files.moveItem(at: bundle, to: staging)
    }
    try files.createDirectory(at: parts, withIntermediateDirectories: true)
  }

  /// Takes a manifest over, and removes what it has otherwise than the one that was there before.
  func take(_ manifest: Data, _ listing: BundleListing) throws {
    let own = staging.appendingPathComponent(BundleListing.manifest)
    let before = (try? Data(contentsOf: own)).flatMap { try? BundleListing(manifest: $0) }
    let known = Set((before?.files ?? []).map { "\($0.digest) \($0.path)" })
    for file in listing.files where !known.contains("\(file.digest) \(file.path)") || !has(file) {
      try remove(staging.appendingPathComponent(file.path))
    }
    try manifest.write(to: own, options: .atomic)
  }

  /// Whether a verified file is in its place.
  func has(_ file: BundleListing.File) -> Bool {
    Self.length(of: staging.appendingPathComponent(file.path)) == file.bytes
  }

  func part(of file: BundleListing.File) -> URL { parts.appendingPathComponent(file.digest) }

  /// Bytes of a file that have been received.
  func received(of file: BundleListing.File) -> Int64 {
    has(file) ? file.bytes : min(file.bytes, Self.length(of: part(of: file)) ?? 0)
  }

  /// Puts a file that was verified in its place.
  func settle(_ file: BundleListing.File) throws {
    let target = staging.appendingPathComponent(file.path)
    try FileManager.default.createDirectory(at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
    try FileManager.default.moveItem(at: part(of: file), to: target)
  }

  /// Puts the whole bundle in its place.
  func finish(_ manifest: Data) throws {
    try remove(parts)
    try remove(bundle)
    let mark = SHA256Digest.hex(of: manifest)
    try Data(mark.utf8).write(to: staging.appendingPathComponent(Self.mark), options: .atomic)
    try FileManager.default.moveItem(at: staging, to: bundle)
    #if canImport(Darwin)
      var (values, folder) = (URLResourceValues(), bundle)
      values.isExcludedFromBackup = true
      try folder.setResourceValues(values)
    #endif
  }

  func remove() throws {
    try remove(bundle.deletingLastPathComponent())
  }

  private func remove(_ url: URL) throws {
    if FileManager.default.fileExists(atPath: url.path) { try FileManager.default.removeItem(at: url) }
  }

  private static func length(of url: URL) -> Int64? {
    let attributes = try? FileManager.default.attributesOfItem(atPath: url.path)
    guard attributes?[.type] as? FileAttributeType == .typeRegular else { return nil }
    return (attributes?[.size] as? NSNumber)?.int64Value
  }

  /// Bytes that can be written there; nil if the system does not tell.
  var room: Int64? {
    #if canImport(Darwin)
      let values = try? staging.resourceValues(forKeys: [.volumeAvailableCapacityForImportantUsageKey])
      return values?.volumeAvailableCapacityForImportantUsage
    #else
      let values = try? FileManager.default.attributesOfFileSystem(forPath: staging.path)
      return (values?[.systemFreeSize] as? NSNumber)?.int64Value
    #endif
  }
}
