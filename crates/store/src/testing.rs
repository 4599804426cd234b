//! Databases for test suites.
