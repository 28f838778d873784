//! Reviews, which are answered and never stored: TokenReview says whose a token is, SelfSubjectReview who asks.

use std::sync::Arc;

use weir_proto::authentication::v1::{
    ExtraValue, SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
};
use weir_proto::meta::v1::Time;
use weir_proto::status::ApiError;
use weir_proto::{Kind, Object, Resource};

use super::ISSUER;
use super::bearer::Refused;
use crate::auth::{AUTHENTICATED, MASTERS, User, forbidden};
use crate::cache::CachedObject;
use crate::registry::{Context, Registry, Written};

/// The kinds that are asked instead of stored, by the plural of their REST paths.
pub(crate) fn reviews() -> [(&'static str, &'static Kind); 2] {
    [("selfsubjectreviews", SelfSubjectReview::KIND), ("tokenreviews", TokenReview::KIND)]
}

pub(crate) fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    let named = |kind: &Kind| kind.group == group && kind.version == version;
    reviews().into_iter().find(|(known, kind)| *known == plural && named(kind)).map(|(_, kind)| kind)
}

pub(crate) fn is_review(kind: &Kind) -> bool {
    reviews().iter().any(|(_, review)| *review == kind)
}

impl Registry {
    /// Answers a review.
    pub(crate) async fn answer_review(
        &self,
        context: &Context,
        mut review: Box<dyn Object>,
    ) -> Result<Written, ApiError> {
        if let Some(review) = review.downcast_mut::<TokenReview>() {
            self.review_token(context, review).await?;
        } else if let Some(review) = review.downcast_mut::<SelfSubjectReview>() {
            review.status = Some(SelfSubjectReviewStatus { user_info: Some(info(&context.user)) });
        }
        review.meta_mut().creation_timestamp = Some(Time::now());
        let mut object = CachedObject::new(review, 0);
        object.object.meta_mut().resource_version.clear();
        Ok(Written { object: Arc::new(object), warnings: Vec::new() })
    }

    async fn review_token(&self, context: &Context, review: &mut TokenReview) -> Result<(), ApiError> {
        if !context.user.is_in(MASTERS) {
            let reason = format!(
                "User {:?} cannot create resource \"tokenreviews\" in API group \"authentication.k8s.io\" at the \
                 cluster scope",
                context.user.name
            );
            return Err(forbidden(TokenReview::KIND, "", &reason));
        }
        let spec = review.spec.get_or_insert_default();
        if spec.token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = match spec.audiences.is_empty() {
            true => vec![ISSUER.to_owned()],
            false => spec.audiences.clone(),
        };
        review.status = Some(match self.tokens().review(self, &spec.token, &audiences).await {
            Ok((user, audiences)) => TokenReviewStatus {
                authenticated: true,
                user: Some(info(&user)),
                audiences,
                ..TokenReviewStatus::default()
            },
            Err(Refused::Unanswered(error)) => return Err(error),
            Err(refused) => TokenReviewStatus { error: refused.to_string(), ..TokenReviewStatus::default() },
        });
        Ok(())
    }
}

fn info(user: &User) -> UserInfo {
    let mut groups = user.groups.clone();
    if !user.is_in(AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let extra = user.extra.iter().map(|(key, values)| (key.clone(), ExtraValue { items: values.clone() }));
    UserInfo { username: user.name.clone(), uid: user.uid.clone(), groups, extra: extra.collect() }
}
