//! Why a token is rejected.

/// Why a token is rejected. Callers see the texts, which contain nothing of the
/// token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not three parts of base64url with JSON objects in the first two.
    #[error("The bearer token is no signed JSON Web Token.")]
    Malformed,
    /// `none`, HMAC, or an algorithm that is not known.
    #[error("The token's algorithm is not accepted.")]
    Algorithm,
    /// No key of the issuer has the token's `kid` and algorithm. The issuer may have
    /// published new keys since they were fetched.
    #[error("The token's key is not one of its issuer's.")]
    UnknownKey,
    /// The signature does not match the token.
    #[error("The token's signature is wrong.")]
    Signature,
    /// The claim `iss` is missing, or names an issuer that is not trusted here.
    #[error("The token's issuer is not accepted.")]
    Issuer,
    /// The claim `aud` does not contain the audience.
    #[error("The token is for another audience.")]
    Audience,
    /// `exp` has passed, or is missing.
    #[error("The token has expired or does not say when it will.")]
    Expired,
    /// `nbf` is in the future.
    #[error("The token is not valid yet.")]
    NotYetValid,
    /// The claim with the tenant is missing, is not a UUID, or names a tenant for
    /// which this issuer may not issue tokens.
    #[error("The token opens no tenant.")]
    Tenant,
    /// The claim with the user is missing, empty or not a text.
    #[error("The token names no user.")]
    User,
    /// The claim with the scopes is neither a text nor a list of texts.
    #[error("The token's scopes are neither a text nor a list of texts.")]
    Scopes,
}
