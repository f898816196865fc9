//! One request from a client to a back end and its answer back. Protocol of the client's side: whatever hyper serves.

mod body;
mod failure;
pub(crate) mod head;
mod tunnel;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::time::sleep_until;

use crate::balancer::Balancer;
use crate::driver::Place;
use crate::pool::{Input, MemberId, Pick};
use crate::upstream::{self, Sender};

use body::{BodyError, Upload};
pub(crate) use body::{RequestBody, ResponseBody};
use failure::Failure;

/// Back ends asked for one request. With three, two nodes may die in the same moment.
const ATTEMPTS_MAX: usize = 3;

/// Answers one request, whatever happens.
pub(crate) async fn serve(
    balancer: Arc<Balancer>,
    place: Arc<Place>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = Instant::now();
    let id = balancer.next_request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let outcome = pass_on(&balancer, &place, request, &id).await;
    let elapsed_ms = started.elapsed().as_millis();
    match outcome {
        Ok(response) => {
            let status = response.status().as_u16();
            tracing::debug!(%method, path, status, elapsed_ms, request = id, "answered");
            response
        }
        Err(failure) => {
            let error = anyhow::Error::new(failure);
            tracing::debug!(%method, path, elapsed_ms, request = id, error = format!("{error:#}"), "failed");
            error.downcast_ref::<Failure>().unwrap_or(&Failure::NoBackend).response(&id)
        }
    }
}

async fn pass_on(
    balancer: &Arc<Balancer>,
    place: &Arc<Place>,
    mut request: Request<Incoming>,
    id: &str,
) -> Result<Response<ResponseBody>, Failure> {
    let client_upgrade = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    let admitted = head::admit(&head, !body.is_end_stream())?;
    head::to_backend(&mut head, &admitted, place.client(), id);
    let (mut outgoing, upload) = Outgoing::new(head, body, admitted.idempotent, balancer.idle_limit());

    let answered = ask(balancer, &mut outgoing, upload.as_deref()).await?;
    let (mut head, body) = answered.response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        if !admitted.wants_upgrade() {
            return Err(Failure::Unasked);
        }
        let backend_upgrade = hyper::upgrade::on(Response::from_parts(head.clone(), body));
        tokio::spawn(tunnel::run(client_upgrade, backend_upgrade, answered.lease, place.clone()));
        head.extensions.clear();
        head::to_client(&mut head);
        return Ok(Response::from_parts(head, ResponseBody::Own(Full::new(Bytes::new()))));
    }
    head::to_client(&mut head);
    let body = ResponseBody::relay(body, balancer.idle_limit(), answered.lease);
    Ok(Response::from_parts(head, body))
}

struct Answered {
    response: Response<Incoming>,
    lease: Lease,
}

/// Asks one back end after the other until one answers or another try makes no sense.
async fn ask(
    balancer: &Arc<Balancer>,
    outgoing: &mut Outgoing,
    upload: Option<&Upload>,
) -> Result<Answered, Failure> {
    let mut tried: Vec<MemberId> = Vec::new();
    let mut failure = Failure::NoBackend;
    while tried.len() < ATTEMPTS_MAX
        && let Some(pick) = balancer.pick(&tried)
    {
        tried.push(pick.id);
        let mut lease = Lease { balancer: balancer.clone(), pick, sender: None };
        match attempt(balancer, &lease.pick, outgoing, upload).await {
            Ok((response, sender)) => {
                balancer.tell(Input::Answered(lease.pick.id));
                lease.sender = Some(sender);
                return Ok(Answered { response, lease });
            }
            Err(error) => failure = error,
        }
        if let Some(fault) = failure.fault() {
            balancer.tell(Input::Failed(lease.pick.id, fault));
        }
        if !failure.is_worth_another_try() || !outgoing.can_be_sent() {
            break;
        }
    }
    Err(failure)
}

/// Asks one back end, over a kept connection if there is one. That such a connection has just been closed is nobody's
/// fault: the request then goes over a new one.
async fn attempt(
    balancer: &Arc<Balancer>,
    pick: &Pick,
    outgoing: &mut Outgoing,
    upload: Option<&Upload>,
) -> Result<(Response<Incoming>, Sender), Failure> {
    if let Some(mut sender) = balancer.upstream().take(pick.address) {
        match send(balancer, pick, &mut sender, outgoing, upload).await {
            Err(Failure::Ended(_)) if outgoing.can_be_sent() => balancer.upstream().forget(pick.address),
            outcome => return outcome.map(|response| (response, sender)),
        }
    }
    let mut sender = upstream::connect(pick.address).await.map_err(Failure::Connect)?;
    let response = send(balancer, pick, &mut sender, outgoing, upload).await?;
    Ok((response, sender))
}

/// Sends the request and waits for the head of the answer.
async fn send(
    balancer: &Balancer,
    pick: &Pick,
    sender: &mut Sender,
    outgoing: &mut Outgoing,
    upload: Option<&Upload>,
) -> Result<Response<Incoming>, Failure> {
    let Some(request) = outgoing.take() else { return Err(Failure::Client) };
    let mut answer = std::pin::pin!(sender.try_send_request(request));
    let mut changes = balancer.member_changes();
    let mut deadline = Instant::now() + balancer.response_limit();
    let outcome = loop {
        let was_complete = upload.is_none_or(Upload::has_ended);
        tokio::select! {
            biased;
            outcome = &mut answer => break outcome,
            // Neither of these is lost when the other comes first.
            _ = changes.changed() => {
                // A node without power does not even close its connections.
                if !balancer.has(pick.id) && outgoing.can_be_sent() {
                    return Err(Failure::Left);
                }
            }
            // A back end owes an answer only after it got the whole request; until then the client's limit holds.
            () = sleep_until(deadline.into()) => {
                if was_complete {
                    return Err(Failure::Silent);
                }
                deadline = Instant::now() + balancer.response_limit();
            }
        }
    };
    outcome.map_err(|mut error| {
        // What comes back was not sent: not a byte of it is with the back end.
        if let Some(request) = error.take_message() {
            outgoing.give_back(request);
        }
        let error = error.into_error();
        if upload.is_some_and(Upload::has_failed) {
            Failure::Client
        } else if error.is_parse() {
            Failure::Garbage(error)
        } else {
            Failure::Ended(error)
        }
    })
}

/// A request that may have to be sent more than once.
enum Outgoing {
    /// Idempotent and without a body: as often as needed (RFC 9110 §9.2.2).
    Repeatable(request::Parts),
    /// Anything else: only as long as nothing of it has left.
    Once(Option<Request<RequestBody>>),
}

impl Outgoing {
    fn new(
        mut head: request::Parts,
        body: Incoming,
        idempotent: bool,
        limit: Duration,
    ) -> (Self, Option<Arc<Upload>>) {
        head.extensions.clear();
        if !body.is_end_stream() {
            let (body, upload) = RequestBody::new(body, limit);
            return (Self::Once(Some(Request::from_parts(head, body))), Some(upload));
        }
        if idempotent {
            return (Self::Repeatable(head), None);
        }
        (Self::Once(Some(Request::from_parts(head, RequestBody::empty()))), None)
    }

    fn take(&mut self) -> Option<Request<RequestBody>> {
        match self {
            Self::Repeatable(head) => Some(Request::from_parts(head.clone(), RequestBody::empty())),
            Self::Once(request) => request.take(),
        }
    }

    fn give_back(&mut self, unsent: Request<RequestBody>) {
        if let Self::Once(request) = self {
            *request = Some(unsent);
        }
    }

    fn can_be_sent(&self) -> bool {
        matches!(self, Self::Repeatable(_) | Self::Once(Some(_)))
    }
}

/// The claim on a back end for one request, and on the connection that the answer comes over.
#[derive(Debug)]
pub(crate) struct Lease {
    balancer: Arc<Balancer>,
    pick: Pick,
    sender: Option<Sender>,
}

impl Lease {
    /// The whole answer has come: the connection is free for the next request.
    fn completed(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.balancer.upstream().put_back(self.pick.address, sender);
        }
    }

    /// The answer ended early.
    fn broken(&mut self, error: &BodyError) {
        if self.sender.take().is_some() {
            tracing::debug!(address = %self.pick.address, %error, "an answer ended early");
            self.balancer.tell(Input::Failed(self.pick.id, crate::pool::Fault::Broken));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.balancer.tell(Input::Done(self.pick.id));
    }
}

/// For [`Place`]: the address that clients are counted under.
pub(crate) fn client_address(peer: std::net::SocketAddr) -> IpAddr {
    head::client_of(peer)
}
