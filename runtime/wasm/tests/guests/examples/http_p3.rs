//! An HTTP component of WASI 0.3.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(Guest);

struct Guest;

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        match path.split('?').next().unwrap_or_default() {
            "/spin" => {
                println!("spinning");
                loop {
                    std::hint::black_box(0);
                }
            }
            "/sleep" => {
                println!("sleeping");
                wasip3::clocks::monotonic_clock::wait_for(3_600_000_000_000).await;
            }
            "/trap" => core::arch::wasm32::unreachable(),
            _ => {}
        }
        let (mut body, contents) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _) = Response::new(Fields::new(), Some(contents), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(b"hello from 0.3\n".to_vec()).await;
            if path == "/half" {
                wasip3::clocks::monotonic_clock::wait_for(100_000_000).await;
                core::arch::wasm32::unreachable();
            }
        });
        Ok(response)
    }
}
