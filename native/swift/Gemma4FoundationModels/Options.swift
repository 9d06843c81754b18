import Gemma4

/// The package's options, by a name that stays clear beside Apple's: its framework has `GenerationOptions`, too, and a module
/// that is named as a class cannot tell them apart.
public typealias TextOptions = GenerationOptions
