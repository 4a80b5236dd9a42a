//! Who reaches whom.

use super::*;
