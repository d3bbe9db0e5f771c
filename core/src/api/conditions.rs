//! The names of conditions and reasons. They are part of the API: every reason that is emitted stands here.

/// Types of conditions.
pub mod types {
    /// The object does what it is for. Always present.
    pub const READY: &str = "Ready";
    /// Work towards the desired state is going on. Present only while True.
    pub const RECONCILING: &str = "Reconciling";
    /// Only a change by a user gets the object further. Present only while True.
    pub const STALLED: &str = "Stalled";
    /// The user asked the operator to stop acting.
    pub const SUSPENDED: &str = "Suspended";
    /// The served CustomResourceDefinition is older than this operator. Present only while True.
    pub const SCHEMA_OUTDATED: &str = "SchemaOutdated";
    /// InferenceBackend: accelerator and parallel sizes are chosen.
    pub const SIZED: &str = "Sized";
    /// InferenceBackend: at least one replica answers.
    pub const AVAILABLE: &str = "Available";
    /// InferenceBackend: the model is loaded in every wanted replica.
    pub const MODEL_LOADED: &str = "ModelLoaded";
    /// InferenceBackend: a better computed choice waits.
    pub const UPDATE_AVAILABLE: &str = "UpdateAvailable";
    /// ModelRoute: its spec is one that can come into force.
    pub const ACCEPTED: &str = "Accepted";
    /// ModelRoute: every backend that it names exists and can be called.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// ModelRoute: every ready replica of the gateway goes by its spec.
    pub const PROGRAMMED: &str = "Programmed";
    /// ModelRoute: a budget holds callers back. Present only while True.
    pub const LIMITED_BY_BUDGET: &str = "LimitedByBudget";
    /// AgentPool: the replicas of its workload can be set.
    pub const ABLE_TO_SCALE: &str = "AbleToScale";
    /// AgentPool: the replicas follow the queues.
    pub const SCALING_ACTIVE: &str = "ScalingActive";
    /// AgentPool: something holds the replicas back from what the queues ask for.
    pub const SCALING_LIMITED: &str = "ScalingLimited";
    /// AgentPool: every queue can be read. Absent where there is none.
    pub const METRICS_AVAILABLE: &str = "MetricsAvailable";
    /// AgentPool: a budget pauses it: it makes no agent, and those at work finish.
    pub const PAUSED_BY_BUDGET: &str = "PausedByBudget";
    /// TokenBudget: what was used is known, and below no truth.
    pub const USAGE_KNOWN: &str = "UsageKnown";
    /// TokenBudget: the limit is reached. An exhausted budget is ready.
    pub const EXHAUSTED: &str = "Exhausted";
    /// TokenBudget: what is left lasts for the period if it is used as at present.
    pub const ON_TRACK: &str = "OnTrack";
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        /// Reasons of conditions and events.
        pub mod reasons {
            $($(#[$doc])* pub const $constant: &str = $name;)*

            /// Every reason, for documentation and for the test that nothing else is emitted.
            pub const ALL: &[&str] = &[$($name),*];
        }
    };
}

reasons! {
    // Common to all kinds.
    /// Everything wanted exists and answers.
    AVAILABLE = "Available";
    /// Work is going on; nothing is wrong.
    PROGRESSING = "Progressing";
    /// A call failed, or a reconcile did not end in time, and is repeated.
    PROGRESSING_WITH_RETRY = "ProgressingWithRetry";
    /// The user set `suspend`.
    SUSPENDED = "Suspended";
    /// The user did not set `suspend`.
    NOT_SUSPENDED = "NotSuspended";
    /// A stored object does not fit the schema of this version.
    INVALID_OBJECT = "InvalidObject";
    /// The reconcile of this object failed in a way that is a defect of the operator.
    INTERNAL_ERROR = "InternalError";
    /// A child's name is taken by an object that is not ours.
    NAME_IN_USE = "NameInUse";
    /// The operator's account may not do what this object needs.
    FORBIDDEN = "Forbidden";
    /// The served CustomResourceDefinition is older than this operator.
    SCHEMA_OUTDATED = "SchemaOutdated";

    // Secrets.
    /// A Secret that is referred to does not exist.
    SECRET_NOT_FOUND = "SecretNotFound";
    /// The Secret exists, the key in it does not.
    SECRET_KEY_MISSING = "SecretKeyMissing";
    /// The key in the Secret is empty.
    SECRET_EMPTY = "SecretEmpty";
    /// The value in the Secret cannot be used for what it is named for.
    SECRET_INVALID = "SecretInvalid";

    // Sizing.
    /// A choice was made and fits.
    SIZED = "Sized";
    /// The facts of the model are not known.
    MODEL_UNKNOWN = "ModelUnknown";
    /// The hub did not answer, and is asked again.
    MODEL_FACTS_PENDING = "ModelFactsPending";
    /// The hub refuses the model to this token.
    MODEL_ACCESS_DENIED = "ModelAccessDenied";
    /// The hub has no such model or revision.
    MODEL_NOT_FOUND = "ModelNotFound";
    /// No accelerator is known to choose from.
    NO_ACCELERATOR_KNOWN = "NoAcceleratorKnown";
    /// The accelerators that are known do not match what the spec asks for.
    NO_ACCELERATOR_MATCHES = "NoAcceleratorMatches";
    /// The model does not fit on any node.
    DOES_NOT_FIT = "DoesNotFit";
    /// A parallel size that the user set is not legal for the model.
    INVALID_PARALLELISM = "InvalidParallelism";
    /// The context is longer than the model's own.
    CONTEXT_TOO_LONG = "ContextTooLong";
    /// A field of `accelerator` contradicts another or the nodes.
    INVALID_ACCELERATOR = "InvalidAccelerator";

    // Engine and pod.
    /// An item of `extraArgs` is managed or refused by vLLM's parser.
    INVALID_ARGUMENTS = "InvalidArguments";
    /// The image has neither tag nor digest.
    INVALID_IMAGE = "InvalidImage";
    /// An environment variable is managed.
    INVALID_ENVIRONMENT = "InvalidEnvironment";
    /// A field cannot be read, or asks for what this operator's configuration lacks.
    INVALID_SPEC = "InvalidSpec";
    /// The API server refuses the pod template.
    INVALID_TEMPLATE = "InvalidTemplate";
    /// An immutable field of an existing child would have to change.
    IMMUTABLE_FIELD_CONFLICT = "ImmutableFieldConflict";
    /// No node takes the pod.
    UNSCHEDULABLE = "Unschedulable";
    /// The image cannot be pulled.
    IMAGE_PULL_FAILED = "ImagePullFailed";
    /// The container cannot be made.
    CONTAINER_CONFIG_ERROR = "ContainerConfigError";
    /// A pod as a whole failed: it was evicted, or its node did not admit it.
    POD_FAILED = "PodFailed";
    /// The model is being loaded.
    MODEL_LOADING = "ModelLoading";
    /// The model is loaded.
    MODEL_LOADED = "ModelLoaded";
    /// The container ends again and again.
    CRASH_LOOP = "CrashLoop";
    /// Somebody else uses memory of the same accelerator.
    INSUFFICIENT_FREE_GPU_MEMORY = "InsufficientFreeGPUMemory";
    /// An accelerator or the node ran out of memory.
    OUT_OF_MEMORY = "OutOfMemory";
    /// The engine did not come up in time.
    START_TIMEOUT = "StartTimeout";
    /// A Service's environment variable collides with one of vLLM's.
    SERVICE_LINK_COLLISION = "ServiceLinkCollision";
    /// Zero replicas are wanted.
    SCALED_TO_ZERO = "ScaledToZero";
    /// Some, but not all wanted replicas answer.
    PARTIALLY_AVAILABLE = "PartiallyAvailable";
    /// A pod that has loaded the model fails its health checks with an error.
    ENGINE_UNHEALTHY = "EngineUnhealthy";
    /// Admission refuses pods: Pod Security or a quota.
    POD_CREATION_FAILED = "PodCreationFailed";

    // Upgrade.
    /// The choice in force is the best that is known.
    UP_TO_DATE = "UpToDate";
    /// A better choice waits for the next change of the spec, or for an annotation.
    BETTER_CHOICE = "BetterChoice";

    // Health.
    /// The checks succeed.
    HEALTHY = "Healthy";
    /// No check has ended yet.
    HEALTH_UNKNOWN = "HealthUnknown";
    /// The checks find that the provider refuses every key.
    UNAUTHORIZED = "Unauthorized";
    /// Calls of the gateway find that the quota of every key is used up.
    QUOTA_EXHAUSTED = "QuotaExhausted";
    /// Calls of the gateway find that every key is refused.
    KEY_REJECTED = "KeyRejected";
    /// The provider limits the rate.
    RATE_LIMITED = "RateLimited";
    /// The server does not answer, or not in time.
    UNREACHABLE = "Unreachable";
    /// The provider answers with an error.
    PROVIDER_ERROR = "ProviderError";
    /// The server does not list the model.
    MODEL_NOT_LISTED = "ModelNotListed";
    /// The address may not be reached from here.
    ENDPOINT_NOT_ALLOWED = "EndpointNotAllowed";
    /// The certificate cannot be verified.
    TLS_ERROR = "TLSError";

    // Routes.
    /// The spec can come into force.
    ACCEPTED = "Accepted";
    /// Every backend that the route names exists and can be called.
    RESOLVED_REFS = "ResolvedRefs";
    /// Every ready replica of the gateway goes by the spec.
    PROGRAMMED = "Programmed";
    /// The spec is not in force; the form that was accepted last still is, if there was one.
    NOT_ACCEPTED = "NotAccepted";
    /// An older route of the namespace has the name.
    MODEL_NAME_CONFLICT = "ModelNameConflict";
    /// A backend that the route names does not exist.
    BACKEND_NOT_FOUND = "BackendNotFound";
    /// A backend that the route names exists, and no call can be sent to it.
    BACKEND_UNUSABLE = "BackendUnusable";
    /// None of the route's backends is ready.
    NO_BACKEND_READY = "NoBackendReady";
    /// Calls of the same kind would go to backends without a format in common.
    FORMAT_NOT_SUPPORTED = "FormatNotSupported";
    /// Calls in some formats reach only some of the backends.
    FORMAT_LIMITED = "FormatLimited";
    /// The data policy leaves no backend.
    NO_BACKEND_ALLOWED = "NoBackendAllowed";
    /// Budgets hold callers back.
    CALLERS_HELD_BACK = "CallersHeldBack";
    /// A budget allows a caller only backends of a class that the route does not have.
    NO_BACKEND_IN_TIER = "NoBackendInTier";
    /// The routes of the namespace are more than a ConfigMap can hold.
    PLAN_TOO_LARGE = "PlanTooLarge";
    /// No replica of the gateway is ready.
    GATEWAY_NOT_READY = "GatewayNotReady";
    /// The ConfigMap with the gateway's settings cannot be understood.
    INVALID_GATEWAY_SETTINGS = "InvalidGatewaySettings";

    // Budgets.
    /// The budget counts what its callers use, and holds them to its limit.
    IN_FORCE = "InForce";
    /// The budget shows what it would do, and does nothing.
    DRY_RUN = "DryRun";
    /// No AgentPool is one whose calls count.
    NO_CALLERS = "NoCallers";
    /// The first period has not started.
    PERIOD_NOT_STARTED = "PeriodNotStarted";
    /// The only period is over.
    PERIOD_ENDED = "PeriodEnded";
    /// A period has started.
    PERIOD_STARTED = "PeriodStarted";
    /// No time zone has the name in `period.timeZone`.
    INVALID_TIME_ZONE = "InvalidTimeZone";
    /// The fields of `period` make no period.
    INVALID_PERIOD = "InvalidPeriod";
    /// The thresholds contradict each other or the rest of the spec.
    INVALID_THRESHOLDS = "InvalidThresholds";
    /// The limit cannot be divided as `share` says.
    INVALID_SHARE = "InvalidShare";
    /// The selector of AgentPools is none that Kubernetes takes.
    INVALID_SELECTOR = "InvalidSelector";
    /// Everything that was used is counted.
    USAGE_KNOWN = "UsageKnown";
    /// The operator has not read yet what was used.
    USAGE_UNKNOWN = "UsageUnknown";
    /// The budget is new, and not every replica of the gateway has said what was used before.
    USAGE_OPENING = "UsageOpening";
    /// A replica of the gateway has not reported to the operator that leads.
    GATEWAY_NOT_HEARD = "GatewayNotHeard";
    /// The record of what was used, or a part of it, is gone; it was made anew of what the gateways know, and waits for somebody to
    /// confirm it.
    LEDGER_LOST = "LedgerLost";
    /// Money is limited, and a backend that the callers may reach has no price.
    PRICE_MISSING = "PriceMissing";
    /// The limit is not reached.
    WITHIN_BUDGET = "WithinBudget";
    /// The limit is reached.
    BUDGET_EXHAUSTED = "BudgetExhausted";
    /// What is left lasts for the period.
    ON_TRACK = "OnTrack";
    /// What is left does not last for the period if it is used as at present.
    PROJECTED_TO_RUN_OUT = "ProjectedToRunOut";
    /// A threshold was reached, and its action is taken.
    THRESHOLD_REACHED = "ThresholdReached";
    /// The limit was raised, and the action of a threshold is taken no more.
    THRESHOLD_LEFT = "ThresholdLeft";

    // Pools of agents.
    /// Every queue can be read.
    QUEUES_READ = "QueuesRead";
    /// Every queue can be read, and a stream lacks the group that it is read by.
    GROUP_NOT_FOUND = "GroupNotFound";
    /// A server warns that its answer is not whole.
    PARTIAL_ANSWER = "PartialAnswer";
    /// The replicas follow the queues.
    QUEUES_FOLLOWED = "QueuesFollowed";
    /// A queue cannot be read.
    QUEUES_UNKNOWN = "QueuesUnknown";
    /// The pool makes and scales no agents.
    NO_WORKLOAD = "NoWorkload";
    /// The first agents are on their way.
    STARTING = "Starting";
    /// The spec names no queue.
    NO_QUEUE = "NoQueue";
    /// A queue that cannot be read counts for what the spec says.
    FALLBACK = "Fallback";
    /// The user pinned the replicas.
    PINNED = "Pinned";
    /// The server's answer is not what was asked for.
    UNEXPECTED_ANSWER = "UnexpectedAnswer";
    /// The server's answer has no value.
    NO_DATA = "NoData";
    /// The replicas were changed.
    SUCCESSFUL_RESCALE = "SuccessfulRescale";
    /// The replicas can be set.
    READY_FOR_NEW_SCALE = "ReadyForNewScale";
    /// The workload that `targetRef` names does not exist.
    TARGET_NOT_FOUND = "TargetNotFound";
    /// Somebody else scales the workload that `targetRef` names.
    TARGET_IN_USE = "TargetInUse";
    /// Nothing holds the replicas back.
    DESIRED_WITHIN_RANGE = "DesiredWithinRange";
    /// The queues ask for more than the spec allows.
    TOO_MANY_REPLICAS = "TooManyReplicas";
    /// The queues ask for less than the spec allows.
    TOO_FEW_REPLICAS = "TooFewReplicas";
    /// The policies allow no more replicas yet.
    SCALE_UP_LIMIT = "ScaleUpLimit";
    /// The policies allow no fewer replicas yet.
    SCALE_DOWN_LIMIT = "ScaleDownLimit";
    /// A stabilization window has seen another demand.
    STABILIZED = "Stabilized";
    /// The last replica stays for a while after the last task.
    COOLDOWN = "Cooldown";
    /// Agents at work are not ended yet.
    BUSY_AGENTS = "BusyAgents";
    /// A budget pauses the pool.
    PAUSED = "Paused";
    /// No budget pauses the pool.
    NOT_PAUSED = "NotPaused";
}

/// Actions of events: what the operator was doing.
pub mod actions {
    /// Bringing an object to its desired state.
    pub const RECONCILE: &str = "Reconcile";
}
