//! The whole balancer on loopback: real sockets, real time, no bus.

mod backends;
mod clients;
mod support;
