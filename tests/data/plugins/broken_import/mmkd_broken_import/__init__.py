"""Cannot be imported, and tries to take the whole process with it."""

import sys

sys.exit("this plugin needs a library that is not here")
