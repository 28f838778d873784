//! The router as a service for callers in the same process, who bring their identity along.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use futures::future::BoxFuture;
use tower::Service;

use crate::auth::User;

/// Answers as the server would answer `user` over TLS; for tonic's clients.
#[derive(Debug, Clone)]
pub struct InProcess {
    router: Router,
    user: Option<User>,
}

impl InProcess {
    pub(super) fn new(router: Router, user: Option<User>) -> Self {
        InProcess { router, user }
    }
}

impl<B> Service<http::Request<B>> for InProcess
where
    B: axum::body::HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = http::Response<axum::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut request = request.map(axum::body::Body::new);
        if let Some(user) = &self.user {
            request.extensions_mut().insert(user.clone());
        }
        let mut router = self.router.clone();
        Box::pin(async move { router.call(request).await })
    }
}
