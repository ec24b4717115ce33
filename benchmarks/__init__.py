"""The method's hot steps beside their plain definitions; README.md says how to run them."""

import wsss  # noqa: F401  before torch is imported: it sets how torch's threads wait
