//! How hosts stand.

crate::words! {
    /// How a host stands.
    HostState {
        /// Answers, and every condition holds.
        Healthy = "healthy",
        /// Answers, and some condition does not hold or is unknown.
        Degraded = "degraded",
        /// Does not answer.
        Unreachable = "unreachable",
        /// Does not answer, as expected.
        Asleep = "asleep",
        /// Not found out yet.
        Unknown = "unknown",
        /// In the site file, but never enrolled.
        NotEnrolled = "not_enrolled",
    }
}
