"""Where the embedded models lie. See MANIFEST.json beside this file for origin, licence and digest of each."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent
