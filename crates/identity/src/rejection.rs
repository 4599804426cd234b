//! Why a token is not believed.

/// A token that opens nothing. The texts are shown to callers and hold nothing
/// of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not three parts of base64url with JSON objects in the first two.
    #[error("The bearer token is no signed JSON Web Token.")]
    Malformed,
    /// `none`, HMAC, or an algorithm that is not known.
    #[error("The token's algorithm is not accepted.")]
    Algorithm,
    /// No key of the issuer has the token's `kid` and algorithm. Newer keys may
    /// change that.
    #[error("The token's key is not one of its issuer's.")]
    UnknownKey,
    /// The signature does not belong to the token.
    #[error("The token's signature is wrong.")]
    Signature,
    /// The claim `iss` is missing or names an issuer that is not believed here.
    #[error("The token's issuer is not accepted.")]
    Issuer,
    /// The claim `aud` does not hold the audience.
    #[error("The token is for another audience.")]
    Audience,
    /// `exp` has passed, or is missing.
    #[error("The token has expired or does not say when it will.")]
    Expired,
    /// `nbf` has not come.
    #[error("The token is not valid yet.")]
    NotYetValid,
    /// The claim with the tenant is missing, no UUID, or names a tenant that
    /// this issuer does not open.
    #[error("The token opens no tenant.")]
    Tenant,
    /// The claim with the user is missing, empty or no text.
    #[error("The token names no user.")]
    User,
    /// The claim with the scopes is neither a text nor a list of texts.
    #[error("The token's scopes are neither a text nor a list of texts.")]
    Scopes,
}
