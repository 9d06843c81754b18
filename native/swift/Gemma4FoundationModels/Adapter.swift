import Gemma4
