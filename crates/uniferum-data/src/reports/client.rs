//! A server that speaks OpenAI's chat completions.

use std::time::Duration;

use serde::Deserialize;

use super::run::{Failure, LanguageModel};
use crate::error::Result;
use crate::http::{self, check_address};

/// Where a model answers.
#[derive(Clone, PartialEq)]
pub struct Endpoint {
    /// The address up to and with the version, such as `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The key, if the server wants one. It goes into no log and no message.
    pub key: Option<String>,
    /// The longest that one answer may take.
    pub timeout: Duration,
    /// Ask the server to return JSON only (`response_format`); not every server knows it.
    pub json_mode: bool,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("model", &self.model)
            .field("key", &self.key.as_ref().map(|_| "…"))
            .field("timeout", &self.timeout)
            .field("json_mode", &self.json_mode)
            .finish()
    }
}

/// A model behind HTTP.
#[derive(Debug)]
pub struct HttpModel {
    endpoint: Endpoint,
    agent: ureq::Agent,
}

/// However long a server asks to wait: a run should not sleep for a day in silence.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

impl HttpModel {
    /// Prepares connections; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an address that is neither `http` nor `https`, or
    /// `https` without the feature `tls`.
    pub fn new(endpoint: Endpoint) -> Result<Self> {
        check_address("endpoint", &endpoint.url)?;
        let agent = http::settings()
            .timeout_global(Some(endpoint.timeout))
            .build()
            .into();
        Ok(HttpModel { endpoint, agent })
    }

    fn body(&self, prompt: &str) -> String {
        let mut body = serde_json::json!({
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
        });
        if self.endpoint.json_mode {
            body["response_format"] = serde_json::json!({"type": "json_object"});
        }
        body.to_string()
    }
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

impl LanguageModel for HttpModel {
    fn name(&self) -> &str {
        &self.endpoint.model
    }

    fn complete(&self, prompt: &str) -> std::result::Result<String, Failure> {
        let passing = |what: String| Failure::Passing { what, after: None };
        let url = format!(
            "{}/chat/completions",
            self.endpoint.url.trim_end_matches('/')
        );
        let mut request = self
            .agent
            .post(&url)
            .header("Content-Type", "application/json");
        if let Some(key) = &self.endpoint.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let sent = request.send(self.body(prompt));
        let mut response = sent.map_err(|e| passing(format!("{url}: {e}")))?;
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after");
        let after = after
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|e| passing(format!("{url}: {e}")))?;
        if status != 200 {
            let short: String = text.chars().take(300).collect();
            let what = format!("{url}: status {status}: {short}");
            // Busy, timed out, or broken for now; everything else will not change by asking again.
            return Err(if matches!(status, 408 | 409 | 425 | 429 | 500..=599) {
                Failure::Passing { what, after }
            } else {
                Failure::Final(what)
            });
        }
        let completion: Completion = serde_json::from_str(&text)
            .map_err(|e| passing(format!("{url}: not a chat completion: {e}")))?;
        let first = completion.choices.into_iter().next();
        first
            .and_then(|c| c.message.content)
            .ok_or_else(|| passing(format!("{url}: a completion without content")))
    }
}
