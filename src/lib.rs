//! Keeps OAuth 2.0 access tokens alive.
